"""OmniGen2 as a family: its losses, resume to the last bit, adapters, every way to draw."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from training_rows import make_question, make_row, write_dataset

from echo4o.models.omnigen2 import OmniGen2Pipeline
from echo4o.training.caching import fill_store
from echo4o.training.config import TrainConfig
from echo4o.training.data import load_rows
from echo4o.training.families import open_family
from echo4o.training.latents import Encoder
from echo4o.training.omnigen2 import OmniGen2Batch, OmniGen2Family
from echo4o.training.order import Visit
from echo4o.training.overrides import SettingError, override
from echo4o.training.recipes import RECIPES, omnigen2, tiny_omnigen2
from echo4o.training.tiny import make_base
from echo4o.training.train import train

SMALL = (
    *("tiny.hidden_size=48", "tiny.layers=2", "tiny.heads=4", "tiny.kv_heads=2"),
    *("tiny.text_hidden_size=32", "tiny.vocab_size=400", "omnigen2.max_side=32"),
    *("samples_per_pack=4", "packs_per_step=1", "steps=6", "checkpoint_every=3"),
    *("sample_steps=2", "warmup_steps=1", "sample_every=0", "sample_prompts=[]", "log_every=1000"),
)
CPU = torch.device("cpu")


@pytest.fixture
def config(settings: list[str], mixed: Path) -> TrainConfig:
    autoencoder = next(word for word in settings if word.startswith("autoencoder"))
    return override(tiny_omnigen2(), [*SMALL, autoencoder, f"data={mixed}"])


@pytest.fixture(scope="module")
def run(settings: list[str], mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    autoencoder = next(word for word in settings if word.startswith("autoencoder"))
    out = tmp_path_factory.mktemp("omnigen2") / "run"
    train(override(tiny_omnigen2(), [*SMALL, autoencoder, f"data={mixed}", "ema_decay=0"]), out)
    return out


def family_of(config: TrainConfig, out: Path) -> OmniGen2Family:
    rows = load_rows(config)
    make_base(config, rows, out / "base")
    family = open_family(config, rows, out, device=CPU)
    assert isinstance(family, OmniGen2Family)
    family.prepare()
    return family


def batch_of(family: OmniGen2Family, *rows: int, visit: int = 0) -> OmniGen2Batch:
    batch = family.collate([family.load(Visit(row, visit)) for row in rows])
    assert batch is not None
    return batch


def pixels(pipe: OmniGen2Pipeline, count: int) -> np.ndarray:
    """A picture with that many references, as float pixels."""
    pipe.set_progress_bar_config(disable=True)
    references = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "white")]
    made = pipe(
        "A photo of a red circle",
        image=references[:count] or None,
        height=32,
        width=32,
        num_inference_steps=2,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    )
    return np.asarray(made.images[0])


def test_the_loss_is_the_velocity_error_over_latent_values(config: TrainConfig, tmp_path: Path):
    family = family_of(override(config, ["drop_text=0"]), tmp_path)
    # None, one and two references: what has as many goes through the model together.
    batch = batch_of(family, 0, 12, 1, 13)
    assert [len(own) for own in batch.references] == [0, 1, 0, 2]
    found = batch.losses()
    total = 0.0
    of_subset = [0.0, 0.0]
    for place, seen in enumerate(batch.references):
        clean, noise, time = batch.targets[place], batch.noise[place], batch.times[place]
        velocity = family.model(
            [time * clean + (1 - time) * noise],
            time[None],
            batch.texts[place][None],
            torch.ones(1, len(batch.texts[place])),
            [batch.references[place]],
        )[0]
        error = F.mse_loss(velocity, clean - noise, reduction="sum").item()
        total += error / (4 * 16)
        of_subset[bool(seen)] += error / (4 * 16)
    assert found.mse is not None
    assert found.mse.item() == pytest.approx(total, rel=1e-5)
    assert sorted(found.by_subset[0].tolist()) == pytest.approx(sorted(of_subset), rel=1e-5)
    # 32 px: a latent of 4 x 4, patches of 2 x 2.
    assert batch.counts.mse == 4 * 4
    assert batch.tokens == sum(map(len, batch.texts)) + (4 + 3) * 4
    assert found.by_subset[1].sum() == batch.counts.mse
    assert {float(t) for t in batch.times}.isdisjoint(
        {float(t) for t in batch_of(family, 0, 12, 1, 13, visit=1).times}
    )


def test_a_dropped_text_may_take_its_references_along(config: TrainConfig, tmp_path: Path):
    family = family_of(override(config, ["drop_text=1"]), tmp_path)
    empty = family._pipeline.encode_text([""])[0]
    seen = [batch_of(family, 13, visit=visit) for visit in range(12)]
    assert all(len(one.texts[0]) == len(empty) for one in seen)
    counts = [len(one.references[0]) for one in seen]
    assert set(counts) == {0, 2}
    assert 2 <= counts.count(0) <= 10  # about half of them


def test_training_lowers_the_loss_and_moves_every_group(run: Path):
    losses = [json.loads(line)["loss"] for line in (run / "loss.jsonl").open()]
    assert len(losses) == 6
    assert min(losses[-2:]) < losses[0]
    before = load_file(run / "base/transformer/diffusion_pytorch_model.safetensors")
    after = load_file(run / "model/transformer/diffusion_pytorch_model.safetensors")
    assert before.keys() == after.keys()
    moved = {name.partition(".")[0] for name in before if not before[name].equal(after[name])}
    assert moved == {name.partition(".")[0] for name in before}
    frozen = [load_file(run / part / "mllm/model.safetensors") for part in ("base", "model")]
    assert all(tensor.equal(frozen[1][name]) for name, tensor in frozen[0].items())


def test_a_resumed_run_ends_with_the_same_bits(run: Path, config: TrainConfig, tmp_path: Path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "record.json").unlink()
    shutil.rmtree(again / "model")
    shutil.rmtree(again / "checkpoints/step-0000006")
    assert train(override(config, ["ema_decay=0"]), again).finished
    assert (again / "loss.jsonl").read_bytes() == (run / "loss.jsonl").read_bytes()
    name = "model/transformer/diffusion_pytorch_model.safetensors"
    assert (again / name).read_bytes() == (run / name).read_bytes()


def test_latents_on_disk_replace_the_autoencoder(
    run: Path, config: TrainConfig, tmp_path: Path, monkeypatch
):
    cached = override(config, ["ema_decay=0", f"latent_store={tmp_path / 'store'}"])
    shutil.copytree(run / "base", tmp_path / "run/base")
    assert fill_store(cached, tmp_path / "run").rows == 18

    def fail(*_: object) -> None:
        raise AssertionError("the autoencoder was used")

    monkeypatch.setattr(Encoder, "moments", fail)
    assert train(cached, tmp_path / "run").finished
    assert (tmp_path / "run/loss.jsonl").read_bytes() == (run / "loss.jsonl").read_bytes()


@pytest.mark.parametrize("references", [0, 1, 3])
def test_a_trained_model_draws_in_every_mode(run: Path, references: int):
    pipe = OmniGen2Pipeline.from_pretrained(run / "model")
    drawn = pixels(pipe, references)
    assert drawn.shape == (32, 32, 3)
    assert drawn.std() > 0.01


def test_an_adapter_reloads_and_equals_the_merged_model(
    run: Path, config: TrainConfig, tmp_path: Path
):
    words = [f"base_model={run / 'model'}", "lora.rank=4", "lora.merged=true", "ema_decay=0"]
    adapted = override(config, [*words, "learning_rate=0.05", "autoencoder=none"])
    assert train(adapted, tmp_path / "run").finished
    file = tmp_path / "run/adapter/pytorch_lora_weights.safetensors"
    names = load_file(file)
    assert {name.split(".")[0] for name in names} == {"transformer"}
    assert any("context_refiner" in name for name in names)
    pipe = OmniGen2Pipeline.from_pretrained(run / "model")
    plain = pixels(pipe, 1)
    pipe.load_lora_weights(tmp_path / "run/adapter")
    unmerged = pixels(pipe, 1)
    merged = pixels(OmniGen2Pipeline.from_pretrained(tmp_path / "run/model"), 1)
    assert np.abs(unmerged - merged).max() < 1e-5
    assert np.abs(unmerged - plain).max() > 1e-3


_LOAD = """
import sys
from echo4o.models.omnigen2 import OmniGen2Pipeline
pipe = OmniGen2Pipeline.from_pretrained("echo4o-sandbox/omnigen2-tiny")
assert pipe.source_revision is not None
pipe.save_pretrained(sys.argv[1])
"""


@pytest.mark.slow
def test_a_pushed_run_loads_by_its_id(
    run: Path, config: TrainConfig, sandbox, monkeypatch, tmp_path: Path
):
    for name, value in sandbox.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    shutil.copytree(run, tmp_path / "run")
    wanted = override(config, ["ema_decay=0", "push=echo4o-sandbox/omnigen2-tiny"])
    assert train(wanted, tmp_path / "run").finished
    subprocess.run([sys.executable, "-c", _LOAD, str(tmp_path / "there")], check=True)
    here, there = (
        OmniGen2Pipeline.from_pretrained(folder) for folder in (run / "model", tmp_path / "there")
    )
    assert np.abs(pixels(there, 1) - pixels(here, 1)).max() < 1e-5


def test_rows_it_cannot_learn_are_counted(config: TrainConfig, tmp_path: Path):
    rows = [make_row(0), make_question(1), make_row(2, references=6)]
    data = write_dataset(tmp_path / "data", rows)
    family = family_of(override(config, [f"data={data}"]), tmp_path)
    assert family.prepare() == [0]
    assert sorted(family._rows.skipped) == [
        "it has more than 5 references",
        "it has no picture to draw, which is all that OmniGen2 learns",
    ]
    assert family.length(0) == len(batch_of(family, 0).texts[0]) + 4


@pytest.mark.parametrize(
    "word", ["noise_draws=2", "layout=bagel", "lora.experts=und", "freeze=vit"]
)
def test_settings_of_other_families_are_refused(word: str):
    with pytest.raises(ValueError, match=r"ha(s|ve) no meaning for omnigen2|unknown groups"):
        override(tiny_omnigen2(), [word])
    with pytest.raises(SettingError, match="trains another family"):
        override(RECIPES["tiny"](), ["omnigen2.max_side=32"])


def test_the_released_recipe_keeps_its_numbers():
    recipe = omnigen2()
    assert (recipe.learning_rate, recipe.steps, recipe.weight_decay) == (8e-7, 4000, 0.01)
    assert recipe.omnigen2 is not None
    assert recipe.omnigen2.reference_pixels[2] == 768**2
