"""The authors' published layout: where its folders, record files and archives are.

Quirks handled here: misspelt folder names, a logical root that is no folder, names that repeat in
every subset, JSON lines or arrays or glued objects. Nothing is guessed: what does not fit is told.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from echo4o.errors import Echo4oError
from echo4o.schema import CATEGORIES, MAX_REFERENCES, RowError, TaskType, check_instruction

from .tars import unsafe_path

_SUBSET_FOLDERS = {
    "instruction-following-image": "instruction_following",
    "multi-reference-image": "multi_reference",
    "surreal-fantasy-image": "surreal_fantasy",
    "surrel-fantasy-image": "surreal_fantasy",
}
# Folders from which a path means the same in a record and on the disk.
_ANCHORS = ("images", "multi_refer_images_input", "multi_refer_images_output")
_ARCHIVES = (".tar", ".tar.gz", ".tgz")
_CATEGORIES = {
    **{"hum_hum": "human_human", "obj_obj": "object_object"},
    **{"hum_obj_sce": "human_object_scene"},
    **{"hum_obj": "any_two_entities", "hum_sce": "any_two_entities"},
    **{"obj_sce": "any_two_entities"},
    **{"easy": "easy", "medium": "medium", "hard": "hard"},
}
_NEXT_OBJECT = re.compile(r"[\n}\]]\s*,?\s*(?=\{)")
_SEPARATORS = re.compile(r"[\s,\[\]]*")

Report = Callable[[str, str, str], None]
"""Called with reason, place and detail of whatever is left out."""


class LayoutError(Echo4oError):
    """The folder is not in the authors' layout."""


class Key(NamedTuple):
    """A picture of the release: names repeat between subsets, so both parts are needed."""

    subset: str
    path: str
    """From the anchor folder on, for example `images/00000.jpg`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One row of a record file, its paths made comparable with archive members."""

    id: str
    subset: str
    category: str | None
    task_type: TaskType
    instruction: str
    type: str | None
    references: tuple[Key, ...]
    output: Key


class Archive(NamedTuple):
    """An archive and the key folder that its bare members belong to."""

    subset: str
    folder: str
    path: Path


def find_subsets(root: Path) -> dict[str, Path]:
    """Subset -> folder, in `root` or in a single folder inside it.

    Raises:
        LayoutError: there is none.
    """
    if not root.is_dir():
        raise LayoutError(f"{root} is no folder; give the folder of the authors' dataset")
    children = sorted(path for path in root.iterdir() if path.is_dir())
    for folder in (root, *children):
        found = {
            _SUBSET_FOLDERS[path.name.lower()]: path
            for path in sorted(folder.iterdir())
            if path.is_dir() and path.name.lower() in _SUBSET_FOLDERS
        }
        if found:
            return found
    raise LayoutError(
        f"{root} has none of the folders Instruction-Following-Image, Surrel-Fantasy-Image and "
        "Multi-Reference-Image; give the folder that holds them"
    )


def archives(subset: str, folder: Path, *, references: bool) -> list[Archive]:
    """Archives of references, or of targets, in natural order (5000-10000 before 10000-15000)."""
    found = []
    for path in sorted(folder.rglob("*"), key=lambda path: _natural(path.as_posix())):
        if path.is_file() and path.name.lower().endswith(_ARCHIVES):
            parts = path.relative_to(folder).parent.parts
            anchored = _from_anchor(parts) or "images"
            if (anchored.split("/")[0] == "multi_refer_images_input") == references:
                found.append(Archive(subset, anchored, path))
    return found


def member_key(archive: Archive, name: str) -> Key | None:
    """The key of a member; None when it lies in a folder that fits neither archive nor release.

    Members are written `00000.jpg`, `./00000.jpg` or `images/00000.jpg`.
    """
    path = PurePosixPath(name)
    parents = path.parent.parts
    folder = tuple(archive.folder.split("/"))
    if parents and parents != folder[len(folder) - len(parents) :]:
        anchored = _from_anchor(parents)
        return Key(archive.subset, f"{anchored}/{path.name}") if anchored else None
    return Key(archive.subset, f"{archive.folder}/{path.name}")


def read_records(subset: str, folder: Path, report: Report) -> Iterator[Record]:
    """Rows of all record files of a subset; malformed ones are reported and left out."""
    files = sorted([*folder.rglob("*.jsonl"), *folder.rglob("*.json")])
    if not files:
        raise LayoutError(f"{folder} has no .jsonl or .json file with its rows")
    seen: set[str] = set()
    for file in files:
        place = file.relative_to(folder.parent).as_posix()
        for number, value in enumerate(read_objects(file, report, place), 1):
            try:
                record = _record(subset, file.stem, value, seen)
            except (RowError, ValueError) as error:
                report("malformed row", f"{place} object {number}", str(error))
                continue
            seen.add(record.id)
            yield record


def read_objects(file: Path, report: Report, place: str) -> Iterator[dict[str, object]]:
    """JSON objects of a file: one a line, in an array, or glued `}{`; the rest is reported."""
    text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    decoder = json.JSONDecoder()
    position = _skip(text, 0)
    while position < len(text):
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, position) + 1
            report("malformed row", f"{place} line {line}", str(error))
            following = _NEXT_OBJECT.search(text, position)
            end = following.end() if following else len(text)
            value = None
        else:
            if not isinstance(value, dict):
                report("malformed row", place, f"expected an object, got {value!r:.60}")
        if isinstance(value, dict):
            yield value
        position = _skip(text, end)


def _skip(text: str, position: int) -> int:
    match = _SEPARATORS.match(text, position)
    return match.end() if match else position


def _record(subset: str, stem: str, value: dict[str, object], seen: set[str]) -> Record:
    instruction = _text(value, "instruction")
    output = _key(subset, _text(value, "output_image"))
    references = _references(subset, value)
    task_type: TaskType = "ic" if references else "t2i"
    declared = value.get("task_type")
    # Other codes than these two may occur; the references tell what the row is.
    if declared in ("ic", "t2i") and declared != task_type:
        raise ValueError(f"task_type {declared!r} with {len(references)} input_images")
    kind = value.get("type")
    if kind is not None and not isinstance(kind, str):
        raise ValueError(f"`type` must be a text, got {kind!r:.60}")
    code = kind if subset != "multi_reference" or kind else stem
    category = _CATEGORIES.get(code or "")
    name = _row_id(subset, output, seen)
    check_instruction(instruction, name)
    return Record(
        id=name,
        subset=subset,
        category=category if category in CATEGORIES[subset] else None,
        task_type=task_type,
        instruction=instruction,
        type=code,
        references=references,
        output=output,
    )


def _references(subset: str, value: dict[str, object]) -> tuple[Key, ...]:
    paths = value.get("input_images") or []
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise ValueError(f"`input_images` must be a list of paths, got {paths!r:.60}")
    if len(paths) > MAX_REFERENCES:
        raise ValueError(f"{len(paths)} references; at most {MAX_REFERENCES} are known")
    return tuple(_key(subset, path) for path in paths)


def _text(value: dict[str, object], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not text:
        raise ValueError(f"`{name}` must be a text, got {text!r:.60}")
    return text


def _key(subset: str, path: str) -> Key:
    """Drop the logical root; a path of another subset or without a known folder is refused."""
    reason = unsafe_path(path.lstrip("/"))
    if reason is not None:
        raise ValueError(f"path {path!r:.80} {reason}")
    parts = PurePosixPath(path).parts
    named = {_SUBSET_FOLDERS[part.lower()] for part in parts if part.lower() in _SUBSET_FOLDERS}
    anchored = _from_anchor(parts)
    if anchored is None or named - {subset}:
        raise ValueError(f"path {path!r:.80} does not lie in this subset's folders")
    return Key(subset, anchored)


def _from_anchor(parts: tuple[str, ...]) -> str | None:
    for index, part in enumerate(parts):
        if part in _ANCHORS:
            return "/".join(parts[index:])
    return None


def _row_id(subset: str, output: Key, seen: set[str]) -> str:
    folders = PurePosixPath(output.path).parent.parts[1:]
    words = [subset, *folders, PurePosixPath(output.path).stem]
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(words))
    if name not in seen:
        return name
    return next(f"{name}-{n}" for n in range(2, len(seen) + 3) if f"{name}-{n}" not in seen)


def _natural(text: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
