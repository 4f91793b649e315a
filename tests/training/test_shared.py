"""Two processes that share a model by rows: how they resume, and what they do without rows.

That they train and draw as one does is shown in `test_resume`, beside the run of one.
"""

import json
from pathlib import Path

import pytest
from training_rows import make_row, write_dataset
from training_runs import Story, tell

STEPS = [
    *("steps=10", "checkpoint_every=5", "tokens_per_pack=150", "samples_per_pack=none"),
    *("packs_per_step=2", "lookahead=3", "ema_decay=0.9", "noise_draws=2"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def shared(settings, mixed, root) -> Story:
    """A run of two."""
    jobs = {"shared": {"world": 2, "also": ["shard=full"]}}
    return tell(root, [*settings, *STEPS, f"data={mixed}"], jobs)["shared"]


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "loss.jsonl").open()]


@pytest.mark.slow
def test_a_resume_is_exact_and_may_have_fewer_processes(shared, settings, mixed, root):
    jobs = {
        "again": {"world": 2, "from": "shared", "also": ["shard=full"]},
        "fewer": {"from": "shared"},
    }
    found = tell(root, [*settings, *STEPS, f"data={mixed}"], jobs)
    again, fewer = found["again"], found["fewer"]
    assert again.statuses == [0, 0], again.printed
    assert "going on after step 5 of 10" in again.printed
    for name in ("loss.jsonl", "model/model/model.safetensors"):
        assert (again.out / name).read_bytes() == (shared.out / name).read_bytes()
    assert fewer.statuses == [0], fewer.printed
    assert losses(fewer.out)[:5] == losses(shared.out)[:5]
    assert losses(fewer.out)[5:] == pytest.approx(losses(shared.out)[5:], abs=1e-5)


@pytest.mark.slow
def test_processes_without_a_usable_row_keep_in_step_with_the_others(settings, root):
    rows = [make_row(n) for n in range(8)]
    for row in rows[2:6]:
        row["output_image"] = {"bytes": b"no picture", "path": "x.png"}
    words = [*settings, f"data={write_dataset(root / 'rows', rows)}"]
    words += ["samples_per_pack=1", "packs_per_step=2", "latent_cache_mb=0", "steps=8", "seed=44"]
    jobs = {"shared holes": {"also": ["shard=full"], "world": 2}, "holes": {"world": 2}}
    for story in tell(root, words, jobs).values():
        assert story.statuses == [0, 0], story.printed
        samples = [json.loads(line)["samples"] for line in (story.out / "loss.jsonl").open()]
        # In some steps one process has no row, in some none has one; the first is whole.
        assert {0, 1, 2} == set(samples)
        record = json.loads((story.out / "record.json").read_text())
        assert record["metrics"]["rows_skipped"] == {"a picture does not decode": 4}
