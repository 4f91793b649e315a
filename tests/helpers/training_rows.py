"""A small dataset of the sandbox world on disk, for training tests."""

import io
import random
from pathlib import Path

import datasets
from PIL import Image

from echo4o import schema
from echo4o.sandbox import world

SHAPES, COLOURS = world.SHAPES, list(world.COLOURS)


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
