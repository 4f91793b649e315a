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


def make_question(number: int, *, pictures: int = 1) -> dict[str, object]:
    """A row that is answered with text: nothing is drawn."""
    row = make_row(number, references=pictures)
    texts = [scene(random.Random(f"0-{number}-{place}")) for place in range(max(pictures, 1))]
    inputs = [world.paint(text, width=32, height=32, seed=number) for text in texts[:pictures]]
    cells = [{"bytes": png(picture), "path": "x.png"} for picture in inputs]
    asked = {"instruction": "What do the pictures show?", "answer": " and ".join(texts)}
    return row | asked | {"input_images": cells, "output_image": None}


def write_dataset(folder: Path, rows: list[dict[str, object]]) -> Path:
    """A folder that `load_dataset(folder, "all")` reads."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    kinds = {**schema.features(), "answer": datasets.Value("string")}
    features = {name: kind for name, kind in kinds.items() if name in columns}
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    (folder / "data").mkdir(parents=True)
    data.to_parquet(folder / "data" / "train-00000.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  default: true\n  data_files:\n"
        "  - split: train\n    path: data/train-*.parquet\n---\n"
    )
    return folder
