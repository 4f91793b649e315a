"""The authors' published layouts: where folders, record files and archives are.

Quirks handled here: misspelt folder names, a logical root that is no folder, names that repeat in
every subset, JSON lines or arrays or glued objects. Nothing is guessed: what does not fit is told.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from echo4o.errors import Echo4oError
from echo4o.schema import (
    CATEGORIES,
    DATASET_NAME,
    MAX_REFERENCES,
    RowError,
    TaskType,
    check_instruction,
)

from .sources import Source
from .tars import unsafe_path

_SUBSET_FOLDERS = {
    "instruction-following-image": "instruction_following",
    "multi-reference-image": "multi_reference",
    "surreal-fantasy-image": "surreal_fantasy",
    "surrel-fantasy-image": "surreal_fantasy",
}
_ARCHIVES = (".tar", ".tar.gz", ".tgz")
_RECORDS = (".jsonl", ".json")
_CLEANED = "_cleaned"
"""Ends the name of a record file that stands for another one, in Nano-consistent-150k."""
_CATEGORIES = {
    **{"hum_hum": "human_human", "obj_obj": "object_object"},
    **{"hum_obj_sce": "human_object_scene"},
    **{"hum_obj": "any_two_entities", "hum_sce": "any_two_entities"},
    **{"obj_sce": "any_two_entities"},
    **{"easy": "easy", "medium": "medium", "hard": "hard"},
}
MAX_FAULTS = 1_000
"""Of a record file that is no JSON: each makes Python count the file's lines from the start."""
_SEPARATORS = re.compile(r"[\s,\[\]]*")
_NO_ID = re.compile(r"[^A-Za-z0-9_.-]")
_EMPTY_LIST = re.compile(r"\[\s*\]")

Report = Callable[[str, str, str], None]
"""Called with reason, place and detail of whatever is left out."""


class LayoutError(Echo4oError):
    """The files are not in one of the authors' layouts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What all rows of one of the authors' datasets have in common."""

    title: str
    generator: str
    """As the authors name it."""
    license: str | None
    """What their data page declares; None when that is not known."""
    tags: tuple[str, ...]
    anchors: tuple[str, ...]
    """Folders from which a path means the same in a record and on the disk."""


ECHO_4O = Kind(
    title=DATASET_NAME,
    generator="gpt-4o",
    license="mit",
    tags=("synthetic", "gpt-4o", "arxiv:2508.09987"),
    anchors=("images", "multi_refer_images_input", "multi_refer_images_output"),
)
NANO = Kind(
    title="nano-consistent-150k",
    generator="nano-banana",
    license=None,
    tags=("synthetic", "nano-banana", "image-editing"),
    anchors=("Image",),
)


class Part(NamedTuple):
    """The files of one subset."""

    kind: Kind
    subset: str
    names: tuple[str, ...]
    """Of its files in the source."""
    folder: str
    """What `names` begin with; empty, or with `/` at its end."""


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
    general_prompt: str | None = None
    """What was done to a whole group of pictures, in Nano-consistent-150k."""


class Archive(NamedTuple):
    """An archive and the key folder that its bare members belong to."""

    part: Part
    folder: str
    name: str
    holds: Literal["references", "targets", "both"]


def find_parts(source: Source) -> list[Part]:
    """The subsets of a release, which lie at the root or in a single folder.

    Raises:
        LayoutError: there is none.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name in source.names:
        parts = PurePosixPath(name).parts
        for depth in (0, 1):
            if len(parts) > depth + 1 and parts[depth].lower() in _SUBSET_FOLDERS:
                outer = "/".join(parts[:depth])
                inner = "".join(f"{part}/" for part in parts[: depth + 1])
                found.setdefault(outer, {}).setdefault(inner, []).append(name)
                break
    if found:
        return [
            Part(ECHO_4O, _SUBSET_FOLDERS[PurePosixPath(folder).name.lower()], tuple(names), folder)
            for folder, names in sorted(found[min(found)].items())
        ]
    if any(_is_nano(name) for name in source.names):
        return [Part(NANO, "multi_reference", source.names, "")]
    raise LayoutError(
        f"{source.facts.id} has none of the folders Instruction-Following-Image, "
        "Surrel-Fantasy-Image and Multi-Reference-Image, and no Nano-150k.tar.gz; name the folder "
        "that holds them"
    )


def _is_nano(name: str) -> bool:
    return bool(re.match(r"nano-[^/]*150k[^/]*$", PurePosixPath(name).name.lower())) and (
        name.lower().endswith(_ARCHIVES)
    )


def archives(part: Part, *, references: bool) -> list[Archive]:
    """Archives of references, or of targets, in natural order (5000-10000 before 10000-15000)."""
    found = []
    for name in sorted(part.names, key=_natural):
        if name.lower().endswith(_ARCHIVES):
            parts = PurePosixPath(name.removeprefix(part.folder)).parent.parts
            anchored = _from_anchor(parts, part.kind) or part.kind.anchors[0]
            inputs = anchored.split("/")[0] == "multi_refer_images_input"
            if part.kind is NANO:
                found.append(Archive(part, anchored, name, "both"))
            elif inputs == references:
                found.append(Archive(part, anchored, name, "references" if inputs else "targets"))
    return found


def member_key(archive: Archive, name: str) -> Key | None:
    """The key of a member; None when it lies in a folder that fits neither archive nor release.

    Members are written `00000.jpg`, `./00000.jpg` or `images/00000.jpg`.
    """
    *parents, last = name.split("/")
    subset, folder = archive.part.subset, archive.folder.split("/")
    if parents and parents != folder[len(folder) - len(parents) :]:
        anchored = _from_anchor(parents, archive.part.kind)
        return Key(subset, f"{anchored}/{last}") if anchored else None
    return Key(subset, f"{archive.folder}/{last}")


def read_records(source: Source, part: Part, report: Report, seen: set[str]) -> Iterator[Record]:
    """Rows of all record files of a subset; malformed ones are reported and left out.

    `seen` fills with the ids, in small letters: file systems may not tell `A` from `a`.
    """
    files = [name for name in part.names if name.lower().endswith(_RECORDS)]
    if not files:
        raise LayoutError(
            f"{part.folder or source.facts.id} has no .jsonl or .json file with its rows"
        )
    for name in sorted(files, key=lambda name: (PurePosixPath(name).suffix != ".jsonl", name)):
        path = PurePosixPath(name)
        cleaned = str(path.with_name(f"{path.stem}{_CLEANED}{path.suffix}"))
        if part.kind is NANO and cleaned in files:
            report("superseded file", name, f"{PurePosixPath(cleaned).name} stands for it")
            continue
        for number, value in enumerate(read_objects(source.text(name), report, name), 1):
            try:
                record = _record(part, path.stem, value, seen)
            except (RowError, ValueError) as error:
                report("malformed row", f"{name} object {number}", str(error))
                continue
            seen.add(record.id.casefold())
            yield record


def read_objects(text: str, report: Report, place: str) -> Iterator[dict[str, object]]:
    """JSON objects of a text: one a line, in an array, or glued `}{`; the rest is reported."""
    decoder, lines = json.JSONDecoder(), _Lines(text, place)
    position, faults = _skip(text, 0, report, lines), 0
    while position < len(text):
        if faults == MAX_FAULTS:
            report("malformed row", lines.at(position), f"{faults} faults; the rest is not read")
            return
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            report("malformed row", lines.at(position), str(error))
            end, value, faults = _next_object(text, position), None, faults + 1
        else:
            if not isinstance(value, dict):
                report("malformed row", place, f"expected an object, got {value!r:.60}")
        if isinstance(value, dict):
            yield value
        position = _skip(text, end, report, lines)


def _next_object(text: str, position: int) -> int:
    """Where one may begin after a fault: at a `{` that opens a line or follows another value.

    Looking back from each `{` takes as long as the text; a pattern took hours for empty lines.
    """
    last = position + 1
    while (start := text.find("{", last)) >= 0:
        gap = text[last - 1 : start]
        before = gap.rstrip(" \t\r\n,")
        if before.endswith(("}", "]")) or "\n" in gap[len(before) :]:
            return start
        last = start + 1
    return len(text)


def _skip(text: str, position: int, report: Report, lines: "_Lines") -> int:
    """Where the next value begins; a list without any is no row, and is told."""
    match = _SEPARATORS.match(text, position)
    end = match.end() if match else position
    for empty in _EMPTY_LIST.finditer(text, position, end):
        report("malformed row", lines.at(empty.start()), "an empty list")
    return end


class _Lines:
    """Line numbers of positions that only grow: counting each from the start would take hours."""

    def __init__(self, text: str, place: str) -> None:
        self._text = text
        self._place = place
        self._position, self._line = 0, 1

    def at(self, position: int) -> str:
        """File and line."""
        self._line += self._text.count("\n", self._position, position)
        self._position = position
        return f"{self._place} line {self._line}"


def _record(part: Part, stem: str, value: dict[str, object], seen: set[str]) -> Record:
    subset = part.subset
    instruction = _text(value, "instruction")
    output = _key(part, _text(value, "output_image"))
    references = _references(part, value)
    task_type: TaskType = "ic" if references else "t2i"
    declared = value.get("task_type")
    # Other codes than these two may occur; the references tell what the row is.
    if declared in ("ic", "t2i") and declared != task_type:
        raise ValueError(f"task_type {declared!r} with {len(references)} input_images")
    code = _optional(value, "type") or (
        _task(output, stem) if subset == "multi_reference" else None
    )
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
        general_prompt=_optional(value, "general_prompt"),
    )


def _task(output: Key, stem: str) -> str:
    """The folder of `Image/output/TASK/VARIANT/` names the task; else the record file does."""
    parts = PurePosixPath(output.path).parts
    return (
        parts[2]
        if parts[:2] == ("Image", "output") and len(parts) > 3
        else stem.removesuffix(_CLEANED)
    )


def _references(part: Part, value: dict[str, object]) -> tuple[Key, ...]:
    paths = value.get("input_images") or []
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise ValueError(f"`input_images` must be a list of paths, got {paths!r:.60}")
    if len(paths) > MAX_REFERENCES:
        raise ValueError(f"{len(paths)} references; at most {MAX_REFERENCES} are known")
    return tuple(_key(part, path) for path in paths)


def _text(value: dict[str, object], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not text:
        raise ValueError(f"`{name}` must be a text, got {text!r:.60}")
    return text


def _optional(value: dict[str, object], name: str) -> str | None:
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"`{name}` must be a text, got {text!r:.60}")
    return text


def _key(part: Part, path: str) -> Key:
    """Drop the logical root; a path of another subset or without a known folder is refused."""
    reason = unsafe_path(path.lstrip("/"))
    if reason is not None:
        raise ValueError(f"path {path!r:.80} {reason}")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    named = {_SUBSET_FOLDERS[one.lower()] for one in parts if one.lower() in _SUBSET_FOLDERS}
    anchored = _from_anchor(parts, part.kind)
    if anchored is None or named - {part.subset}:
        raise ValueError(f"path {path!r:.80} does not lie in this subset's folders")
    return Key(part.subset, anchored)


def _from_anchor(parts: Sequence[str], kind: Kind) -> str | None:
    for index, part in enumerate(parts):
        if part in kind.anchors:
            return "/".join(parts[index:])
    return None


def _row_id(subset: str, output: Key, seen: set[str]) -> str:
    _, *folders, last = output.path.split("/")
    words = [subset, *folders, last.rpartition(".")[0] or last]
    name = _NO_ID.sub("_", "-".join(words))
    if name.casefold() not in seen:
        return name
    names = (f"{name}-{number}" for number in range(2, len(seen) + 3))
    return next(one for one in names if one.casefold() not in seen)


def _natural(text: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
