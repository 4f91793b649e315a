"""kill -9 at every step of a run with everything on: it ends with the bytes of one left alone."""

import json
import shutil
import time
from pathlib import Path

import pytest
from training_rows import make_question, make_row, write_dataset
from training_runs import tell

from echo4o.training.overrides import override
from echo4o.training.recipes import tiny
from echo4o.training.train import train

pytestmark = pytest.mark.slow

STEPS = 60
SETTINGS = [
    *(f"steps={STEPS}", "checkpoint_every=3", "tokens_per_pack=150", "samples_per_pack=none"),
    *("packs_per_step=2", "lookahead=3", "ema_decay=0.9", "mixture=all:1,more:0.5"),
    *("shuffle_references=true", "drop_references=0.2", "schedule=cosine", "learning_rate=0.01"),
]
FIGURES = Path(__file__).parents[2] / "benchmarks" / "results" / "training_kills.json"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configs: rows that draw, and questions with more drawings."""
    folder = tmp_path_factory.mktemp("mixture")
    first = write_dataset(folder / "all", [make_row(n, references=n % 3) for n in range(20)])
    rows = [make_question(30 + n, pictures=n % 3) for n in range(6)]
    rows += [make_row(40 + n, references=2) for n in range(8)]
    more = write_dataset(folder / "more", rows)
    (first / "more").mkdir()
    shutil.copy(more / "data/train-00000.parquet", first / "more")
    (first / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: all\n  data_files:\n  - split: train\n    path: data/*.parquet\n"
        "- config_name: more\n  data_files:\n  - split: train\n    path: more/*.parquet\n---\n"
    )
    return first


@pytest.mark.parametrize("kind", ["weights", "adapter"])
def test_killed_at_every_step(settings, mixture, tmp_path, kind):
    words = [*settings, *SETTINGS, f"data={mixture}"]
    if kind == "adapter":
        train(override(tiny(), [*settings, f"data={mixture}", "ema_decay=0.5"]), tmp_path / "base")
        words = [w for w in words if not w.startswith(("tiny.", "autoencoder"))]
        words += [f"base_model={tmp_path / 'base/model'}", "lora.experts=und,gen", "lora.rank=4"]
    kills = {"steps": list(range(1, STEPS + 1)), "jitter": 0.06}
    began = time.monotonic()
    told = tell(tmp_path, words, {"undisturbed": {}, "killed": kills})
    alone, killed = told["undisturbed"].statuses, told["killed"].statuses
    assert alone == [0]
    # The last kill comes while the result is saved, or a moment too late.
    assert killed[: STEPS - 1] + killed[-1:] == [-9] * (STEPS - 1) + [0]
    names = ["loss.jsonl", *_weights(tmp_path / "undisturbed")]
    different = [
        name
        for name in names
        if (tmp_path / "undisturbed" / name).read_bytes()
        != (tmp_path / "killed" / name).read_bytes()
    ]
    assert not different
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    figures[kind] = {
        "kills": killed.count(-9),
        "resumed": told["killed"].printed.count("going on after step"),
        "files_compared": names,
        "different": different,
        "seconds": round(time.monotonic() - began, 1),
    }
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")


def _weights(out: Path) -> list[str]:
    """Weights of the result, and of the last checkpoint: parameters, average, optimiser."""
    last = max((out / "checkpoints").iterdir())
    found = [*out.glob("model/**/*.safetensors"), *out.glob("adapter/*.safetensors")]
    found += last.glob("*.safetensors")
    return sorted(path.relative_to(out).as_posix() for path in found)
