"""A small dataset of the sandbox world on disk, an untrained autoencoder, settings to match."""

import io
import random
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

from echo4o import schema
from echo4o.sandbox import world
from echo4o.training.autoencoder import tiny_autoencoder
from echo4o.training.config import TrainConfig
from echo4o.training.overrides import override
from echo4o.training.recipes import tiny

SHAPES, COLOURS = world.SHAPES, list(world.COLOURS)
SETTINGS = (
    *("tiny.hidden_size=32", "tiny.layers=2", "tiny.heads=2", "tiny.kv_heads=1"),
    *("tiny.intermediate_size=64", "tiny.vit_hidden_size=16", "tiny.vit_layers=1"),
    *("tiny.vit_heads=2", "tiny.vit_intermediate_size=32", "tiny.vocab_size=400"),
    *("tiny.picture_side=32", "tiny.vit_side=28"),
    *("samples_per_pack=4", "steps=12", "checkpoint_every=4", "log_every=1000"),
    *("sample_every=0", "warmup_steps=2", "sample_steps=2"),
)


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def scene(rng: random.Random) -> str:
    return f"A photo of a {rng.choice(COLOURS)} {rng.choice(SHAPES)}"


def make_row(number: int, *, references: int = 0, seed: int = 0) -> dict[str, object]:
    """One row of the world, as columns."""
    rng = random.Random(f"{seed}-{number}")
    texts = [scene(rng) for _ in range(references)]
    inputs = [world.paint(text, width=32, height=32, seed=number) for text in texts]
    text = scene(rng)
    if references:
        text = "Put the object from image 1 on the left"
        text += " and the object from image 2 on the right" if references > 1 else ""
    target = world.paint(text, width=32, height=32, seed=number, references=inputs)
    return schema.Row(
        id=f"row-{number:04d}",
        task_type="ic" if references else "t2i",
        subset="multi_reference" if references else "instruction_following",
        instruction=text,
        input_images=tuple(
            schema.Picture(data=png(p), name=f"{i}.png") for i, p in enumerate(inputs)
        ),
        output_image=schema.Picture(data=png(target), name="target.png"),
        width=32,
        height=32,
    ).to_dict()


def write_dataset(folder: Path, rows: list[dict[str, object]]) -> Path:
    """A folder that `load_dataset(folder, "all")` reads."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    features = {name: kind for name, kind in schema.features().items() if name in columns}
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    (folder / "data").mkdir(parents=True)
    data.to_parquet(folder / "data" / "train-00000.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  default: true\n  data_files:\n"
        "  - split: train\n    path: data/train-*.parquet\n---\n"
    )
    return folder


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 rows: 12 from text alone, 6 with one or two references."""
    rows = [make_row(n) for n in range(12)]
    rows += [make_row(12 + n, references=1 + n % 2) for n in range(6)]
    return write_dataset(tmp_path_factory.mktemp("mixed"), rows)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`--set` values of a model that takes a few milliseconds a step; its autoencoder is random."""
    folder = tmp_path_factory.mktemp("autoencoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny_autoencoder().save_pretrained(folder)
    return [*SETTINGS, f"autoencoder={folder}"]


@pytest.fixture
def config(settings: list[str], mixed: Path) -> TrainConfig:
    """The recipe `tiny`, much smaller, on the mixed rows."""
    return override(tiny(), [*settings, f"data={mixed}"])
