"""Makes the kit's items for OmniContext: drawn references and instructions about them.

Run as `python -m echo4o.eval.make_omnicontext_kit FOLDER`; the same code gives the same bytes. All
pictures are drawn here, none shows a person: a character is a face of circles.
"""

import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, ImageDraw

from echo4o.records import write_atomic

_SIDE = 128
_COLOURS = {
    "red": (214, 48, 49),
    "blue": (45, 91, 214),
    "green": (39, 160, 83),
    "yellow": (240, 196, 25),
    "purple": (142, 68, 173),
    "orange": (235, 124, 28),
}
_SHAPES = ("square", "circle", "triangle")
_SCENES = {"beach": ((140, 200, 235), (230, 205, 150)), "meadow": ((170, 215, 240), (96, 160, 84))}
_PLACES = ("on the left", "on the right", "at the top", "at the bottom")


def main(folder: Path) -> None:
    """Write the pictures and items.jsonl."""
    pictures = {**_objects(), **_characters(), **_scenes()}
    for name, data in pictures.items():
        write_atomic(folder / name, data)
    lines = [json.dumps(row) for row in _rows()]
    write_atomic(folder / "items.jsonl", "\n".join(lines) + "\n")


def _rows() -> Iterator[dict[str, object]]:
    """Three items of each type."""
    objects = itertools.cycle(_names("object"))
    characters = itertools.cycle(_names("character"))
    places = itertools.cycle(_PLACES)
    scenes = itertools.cycle(_SCENES)
    for task_type in (
        "single_character",
        "single_object",
        "multi_character",
        "multi_object",
        "multi_character_object",
        "scene_character",
        "scene_object",
        "scene_character_object",
    ):
        for number in range(1, 4):
            subjects = _subjects(task_type, objects, characters)
            told = [f"the {what} from image {n}" for n, (what, _) in enumerate(subjects, start=1)]
            files = [file for _, file in subjects]
            where = f", {next(places)}"
            if task_type.startswith("scene"):
                scene = next(scenes)
                files.append(f"scene-{scene}.png")
                where = f" in front of the {scene} from image {len(files)}{where}"
            instruction = f"Show {' and '.join(told)}{where}."
            yield {
                "key": f"{task_type}_{number}",
                "task_type": task_type,
                "instruction": instruction,
                "instruction_language": "en",
                "input_images": files,
            }


def _subjects(
    task_type: str, objects: Iterator[str], characters: Iterator[str]
) -> list[tuple[str, str]]:
    found = []
    if "character" in task_type:
        found += [next(characters) for _ in range(2 if task_type == "multi_character" else 1)]
    if "object" in task_type:
        found += [next(objects) for _ in range(2 if task_type == "multi_object" else 1)]
    return [(name.split("-", 1)[1].replace("-", " "), f"{name}.png") for name in found]


def _names(kind: str) -> list[str]:
    if kind == "object":
        shapes = itertools.cycle(_SHAPES)
        return [f"object-{colour}-{next(shapes)}" for colour in _COLOURS]
    return [f"character-{colour}-face" for colour in list(_COLOURS)[:4]]


def _objects() -> dict[str, bytes]:
    draw: dict[str, Callable[[ImageDraw.ImageDraw, tuple[int, int, int]], None]] = {
        "square": lambda canvas, fill: canvas.rectangle((36, 36, 92, 92), fill=fill),
        "circle": lambda canvas, fill: canvas.ellipse((32, 32, 96, 96), fill=fill),
        "triangle": lambda canvas, fill: canvas.polygon([(64, 28), (28, 96), (100, 96)], fill=fill),
    }
    found = {}
    for name in _names("object"):
        _, colour, shape = name.split("-")
        image = Image.new("RGB", (_SIDE, _SIDE), "white")
        draw[shape](ImageDraw.Draw(image), _COLOURS[colour])
        found[f"{name}.png"] = _png(image)
    return found


def _characters() -> dict[str, bytes]:
    found = {}
    for name in _names("character"):
        image = Image.new("RGB", (_SIDE, _SIDE), "white")
        canvas = ImageDraw.Draw(image)
        canvas.ellipse((24, 24, 104, 104), fill=_COLOURS[name.split("-")[1]])
        for left in (44, 72):
            canvas.ellipse((left, 50, left + 12, 62), fill="white")
        canvas.arc((46, 56, 82, 90), 20, 160, fill="white", width=4)
        found[f"{name}.png"] = _png(image)
    return found


def _scenes() -> dict[str, bytes]:
    found = {}
    for name, (sky, ground) in _SCENES.items():
        image = Image.new("RGB", (_SIDE, _SIDE), sky)
        ImageDraw.Draw(image).rectangle((0, 80, _SIDE, _SIDE), fill=ground)
        found[f"scene-{name}.png"] = _png(image)
    return found


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
