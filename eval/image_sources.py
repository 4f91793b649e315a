"""Pictures to be judged that are no folder yet: a zip file, or a dataset on the Hub.

Both become a folder of the run, `1.png`, `2.jpg` ..., so that a run can be repeated and reported.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from echo4o.errors import Echo4oError
from echo4o.pictures import PictureError, picture_facts
from echo4o.records import write_atomic

from .items import Item
from .layouts import Part
from .pictures import find_pictures, is_picture_name
from .tasks import Task

FOLDER = "pictures"
_MOST_BYTES = 50 * 2**20
"""Of one picture."""
_NUMBERS = ("number", "id", "index")
_NUMBER = re.compile("0*[1-9][0-9]{0,8}")
_IMAGES = ("image", "picture", "output_image")


def as_folder(source: str, out: Path, *, progress: bool = False) -> Path:
    """Return a folder with the pictures of `source`: a folder, a zip file or a dataset's id.

    Args:
        source: A folder (returned as it is), the path of a zip file, or OWNER/NAME on the Hub;
            there rows have a picture in `image` and their item's number in `number` or `id`.
        out: The run's folder; what has to be unpacked goes there.
        progress: Show a bar on stderr.

    Raises:
        Echo4oError: it is none of these, or holds no picture of an item.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_file():
        pictures = _from_zip(path)
    elif source.count("/") == 1 and not source.startswith((".", "~", "/")):
        pictures = _from_dataset(source)
    else:
        raise Echo4oError(f"{source} is no folder, zip file or dataset (OWNER/NAME) with pictures")
    folder, found = out / FOLDER, set()
    for name, data in tqdm(pictures, desc="unpack", unit="picture", disable=not progress):
        found.add(name)
        if not (folder / name).is_file() or (folder / name).read_bytes() != data:
            write_atomic(folder / name, data)
    if not found:
        raise Echo4oError(f"{source} holds no picture named after an item: 1.png, 2.jpg, 7-2.png")
    others = {one.name for one in folder.iterdir() if is_picture_name(one.name)} - found
    if others:
        raise Echo4oError(
            f"{folder} holds pictures of another source ({min(others)}); use another --out"
        )
    return folder


def arranged(task: Task, items: Sequence[Item], folder: Path, out: Path) -> Path:
    """Return a folder of numbered pictures: `folder` itself, or what its own layout holds.

    Args:
        task: The benchmark whose layout is known.
        items: Whose pictures are looked for.
        folder: What was given.
        out: The run's folder; pictures in the benchmark's layout go there under our names.

    Raises:
        Echo4oError: the layout contradicts the items.
    """
    if task.hooks.layout is None or find_pictures(folder):
        return folder
    found = task.hooks.layout(items, folder)
    if not found:
        return folder  # what is missing is said where pictures are looked for
    for name, source in found.items():
        data = source.encode() if isinstance(source, Part) else source.read_bytes()
        target = out / FOLDER / name
        if not target.is_file() or target.read_bytes() != data:
            write_atomic(target, data)
    return out / FOLDER


def _from_zip(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the pictures of a zip file, wherever in it they lie; their folders are ignored."""
    try:
        with zipfile.ZipFile(path) as archive:
            seen: dict[str, str] = {}
            for entry in archive.infolist():
                name = PurePosixPath(entry.filename).name
                if entry.is_dir() or not is_picture_name(name) or "__MACOSX" in entry.filename:
                    continue
                if seen.setdefault(name, entry.filename) != entry.filename:
                    raise Echo4oError(
                        f"{path} has two pictures {name}: {seen[name]} and {entry.filename}"
                    )
                if entry.file_size > _MOST_BYTES:
                    raise Echo4oError(
                        f"{entry.filename} in {path} has {entry.file_size} bytes, at most "
                        f"{_MOST_BYTES} are read"
                    )
                yield name, archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise Echo4oError(f"{path} is no zip file that can be read ({error})") from error


def _from_dataset(name: str) -> Iterator[tuple[str, bytes]]:
    from datasets import Image, load_dataset

    rows = load_dataset(name, split="train", streaming=True)
    columns = list(rows.features or {})
    image = next((column for column in _IMAGES if column in columns), None)
    number = next((column for column in _NUMBERS if column in columns), None)
    if image is None or number is None:
        raise Echo4oError(
            f"dataset {name} has columns {', '.join(columns)}; a picture is looked for in "
            f"{' or '.join(_IMAGES)}, its item's number in {' or '.join(_NUMBERS)}"
        )
    for row in rows.cast_column(image, Image(decode=False)):
        yield _named(row, image, number, name)


def _named(row: dict[str, Any], image: str, number: str, name: str) -> tuple[str, bytes]:
    value, data = row[number], (row[image] or {}).get("bytes")
    sample = row.get("sample") or 1
    for column, one in ((number, value), ("sample", sample)):
        if not _NUMBER.fullmatch(str(one)):
            raise Echo4oError(f"dataset {name}: {column} is {one!r:.40}, no number of an item")
    if not data:
        raise Echo4oError(f"dataset {name}: item {value} has no picture in {image}")
    try:
        extension = picture_facts(data).extension
    except PictureError:
        extension = "png"  # judging names it as damaged
    suffix = "" if int(sample) == 1 else f"-{int(sample)}"
    return f"{int(value)}{suffix}.{extension}", data
