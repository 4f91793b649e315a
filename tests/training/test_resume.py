"""Killed, told to stop, damaged: a resumed run ends with the very bytes of an undisturbed one."""

import json
import logging
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from training_rows import make_row, write_dataset
from training_runs import Story, tell

from echo4o.errors import Echo4oError
from echo4o.records import RunRecord
from echo4o.training.config import TrainConfig
from echo4o.training.overrides import override
from echo4o.training.train import train

STEPS = [
    *("steps=12", "checkpoint_every=5", "tokens_per_pack=150", "samples_per_pack=none"),
    *("packs_per_step=2", "lookahead=3", "ema_decay=0.9", "noise_draws=2"),
]

PICTURES = ['sample_prompts=["A photo of a red circle"]', "sample_every=12"]


@pytest.fixture(scope="module")
def stories(settings, mixed, tmp_path_factory) -> dict[str, Story]:
    """Runs with packing, dropout and moving average: alone, killed, told to stop, on two ranks."""
    jobs = {
        "undisturbed": {"also": PICTURES},
        # Early: a signal that comes some steps late on a busy machine still finds the run.
        "killed": {"steps": [2, 7]},
        "told": {"steps": [3], "signal": "SIGTERM", "also": ["checkpoint_every=1000"]},
        "ranks": {"world": 2},
        "shared": {"world": 2, "also": ["shard=full", *PICTURES]},
    }
    root = tmp_path_factory.mktemp("stories")
    return tell(root, [*settings, *STEPS, f"data={mixed}"], jobs)


def result(out: Path) -> dict[str, bytes]:
    """What two equal runs must have byte for byte."""
    names = ("loss.jsonl", "model/model/model.safetensors", "model/tokenizer/tokenizer.json")
    return {name: (out / name).read_bytes() for name in names}


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "model/model/model.safetensors")


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "loss.jsonl").open()]


def test_kills_change_nothing(stories):
    killed = stories["killed"]
    assert killed.statuses == [-9, -9, 0]
    assert "going on after step" in killed.printed
    assert result(killed.out) == result(stories["undisturbed"].out)


def test_sigterm_saves_and_exits_with_success(stories):
    told = stories["told"]
    assert told.statuses == [0, 0]
    assert "told to stop" in told.printed
    assert "going on after step" in told.printed
    assert result(told.out) == result(stories["undisturbed"].out)


def test_two_processes_train_like_one(stories):
    alone, together = stories["undisturbed"], stories["ranks"]
    assert together.statuses == [0, 0]
    assert losses(together.out) == pytest.approx(losses(alone.out), abs=1e-5)
    first, second = (weights(story.out) for story in (alone, together))
    assert max((first[name] - second[name]).abs().max() for name in first) < 1e-4


def test_two_processes_with_one_model_train_like_one(stories):
    """Some packs have no reference: one process then runs the vision tower, the other does not."""
    alone, shared = stories["undisturbed"], stories["shared"]
    assert shared.statuses == [0, 0], shared.printed
    assert losses(shared.out) == pytest.approx(losses(alone.out), abs=1e-5)
    first, second = (weights(story.out) for story in (alone, shared))
    assert list(first) == list(second)
    assert max((first[name] - second[name]).abs().max() for name in first) < 1e-4
    sheets = [story.out / "samples/step-0000012.png" for story in (alone, shared)]
    pictures = [np.asarray(Image.open(sheet)).astype(int) for sheet in sheets]
    assert abs(pictures[0] - pictures[1]).max() <= 1


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("damage", ["cut", "bit", "gone"])
def test_a_damaged_checkpoint_is_passed_over(config: TrainConfig, run, caplog, damage):
    caplog.set_level(logging.INFO)
    expected = result(run)
    newest = sorted((run / "checkpoints").iterdir())[-1]
    file = newest / "moments.safetensors"
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "bit":
        file.write_bytes(content[:-99] + bytes([content[-99] ^ 1]) + content[-98:])
    else:
        (newest / "state.json").unlink()
    (run / "record.json").unlink()
    train(config, run)
    assert "step-0000012" in caplog.text
    assert "going on after step 8 of 12" in caplog.text
    assert result(run) == expected


def test_damage_everywhere_is_an_error(config: TrainConfig, run):
    (run / "record.json").unlink()
    for folder in (run / "checkpoints").iterdir():
        (folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(Echo4oError, match="all 2 checkpoints"):
        train(config, run)


def test_other_settings_need_force(config: TrainConfig, run):
    longer = override(config, ["steps=16", "learning_rate=0.001"])
    with pytest.raises(Echo4oError, match=r"finished run.*learning_rate: 0.002 -> 0.001.*steps"):
        train(longer, run)
    (run / "record.json").unlink()
    with pytest.raises(Echo4oError, match=r"step 12.*learning_rate: 0.002 -> 0.001.*--force"):
        train(longer, run)
    ended = train(override(longer, ["resume_force=true"]), run)
    assert (ended.step, ended.finished) == (16, True)


def test_what_no_training_made_is_left_alone(config: TrainConfig, tmp_path):
    scored = RunRecord(name="geneval_plus_plus", command="echo4o eval").save(tmp_path).read_bytes()
    with pytest.raises(Echo4oError, match="holds what `echo4o eval` made; give another folder"):
        train(config, tmp_path)
    assert (tmp_path / "record.json").read_bytes() == scored


def test_other_rows_are_noticed(config: TrainConfig, mixed: Path, run, tmp_path):
    other = write_dataset(tmp_path / "other", [make_row(n, seed=1) for n in range(6)])
    with pytest.raises(Echo4oError, match="rows of the dataset"):
        train(override(config, [f"data={other}"]), run)
    # The same rows in another place are the same dataset.
    copy = shutil.copytree(mixed, tmp_path / "copy")
    assert train(override(config, [f"data={copy}"]), run).finished


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(config: TrainConfig, run):
    expected = result(run)
    (run / "record.json").unlink()
    shutil.rmtree(run / "checkpoints/step-0000012")
    (run / "checkpoints/.step-0000003.tmp").mkdir()  # a kill left it
    # A limit on the size of files fails the same writes as a full disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises((OSError, Echo4oError), match=r"step-0000012 could not be|too large"):
            train(config, run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [f.name for f in (run / "checkpoints").iterdir()] == ["step-0000008"]
    assert train(config, run).finished
    assert result(run) == expected
