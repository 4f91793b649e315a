"""Benchmark items: one prompt with what a picture of it is held against.

Items are read from JSONL, one object a line, blank lines skipped. Each task has its own form of
row; the one here is that of GenEval++, {tag, include, exclude?, prompt}, whose items are numbered
by their running index from 1.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echo4o.errors import Echo4oError

KIT = "kit"
REGIONS = ("left", "right", "above", "below")
_OBJECT_KEYS = {"class", "count", "color", "region", "size"}
_MAX_COUNT = 99
_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")


class ItemsError(Echo4oError):
    """An items file that cannot be used; the message names the line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraint:
    """Objects that must be in the picture (or, in `exclude`, must not reach `count`)."""

    name: str
    """The class of object, singular."""
    count: int = 1
    """How many, 1 to 99."""
    color: str | None = None
    """Colour name."""
    region: str | None = None
    """left, right, above or below."""
    size: str | None = None
    """small, large, smaller or larger."""

    @classmethod
    def parse(cls, value: object) -> "Constraint":
        """Read one GenEval++ object; empty text counts as absent, as the benchmark defines."""
        if not isinstance(value, Mapping):
            raise ValueError(f"a constraint must be an object with `class`, got {value!r:.80}")
        unknown = sorted(str(key) for key in value if key not in _OBJECT_KEYS)
        if unknown:
            raise ValueError(
                f"unknown key {unknown[0]!r}; known: {', '.join(sorted(_OBJECT_KEYS))}"
            )
        name = text(value, "class")
        if name is None:
            raise ValueError("`class` must be a non-empty text")
        count = value.get("count", 1)
        if type(count) is not int or not 1 <= count <= _MAX_COUNT:
            raise ValueError(
                f"`count` must be a whole number from 1 to {_MAX_COUNT}, got {count!r}"
            )
        region = text(value, "region")
        if region is not None and region not in REGIONS:
            raise ValueError(f"`region` must be one of {', '.join(REGIONS)}, got {region!r}")
        return cls(
            name=name,
            count=count,
            color=text(value, "color"),
            region=region,
            size=text(value, "size"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the GenEval++ object, without absent keys."""
        value = {
            "class": self.name,
            "count": self.count,
            "color": self.color,
            "region": self.region,
            "size": self.size,
        }
        return {key: part for key, part in value.items() if part is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One benchmark prompt."""

    number: int
    """Running index from 1; pictures are named after it."""
    tag: str
    """The kind of item; scores are given per tag."""
    prompt: str
    """What the model is asked for."""
    include: tuple[Constraint, ...] = ()
    """Everything that must be there."""
    exclude: tuple[Constraint, ...] = ()
    """Counts that must not be reached."""
    note: str = ""
    """What the picture should show and keep, in words for the judge; instead of constraints."""
    name: str = ""
    """The benchmark's own name of the item, where it has one; tells equal prompts apart."""
    references: tuple[str, ...] = ()
    """Files of the reference pictures, in the order that the prompt means."""

    @property
    def objects(self) -> int:
        """Object instances asked for: the sum of the counts in `include`."""
        return sum(part.count for part in self.include)

    @property
    def one_or_two_objects(self) -> bool:
        """Whether the item asks for at most two object instances; the definition used in scores."""
        return self.objects <= 2

    @property
    def key(self) -> str:
        """Identity of what is asked, whatever the order of the objects: canonical JSON."""
        sides = (
            sorted(json.dumps(part.to_json(), sort_keys=True) for part in side)
            for side in (self.include, self.exclude)
        )
        return json.dumps([*sides, self.note, *([self.name] if self.name else [])])

    def to_json(self) -> dict[str, Any]:
        """Return the JSONL object of this item, in the form of its benchmark."""
        if not self.include:
            named = {"id": self.number, "instruction": self.prompt}
            return {**named, "note": self.note, "type": self.tag}
        value: dict[str, Any] = {
            "tag": self.tag,
            "include": [part.to_json() for part in self.include],
        }
        if self.exclude:
            value["exclude"] = [part.to_json() for part in self.exclude]
        return {**value, "prompt": self.prompt}

    @classmethod
    def from_json(cls, value: object, number: int) -> "Item":
        """Read one row; ValueError says what is wrong with it."""
        if not isinstance(value, Mapping):
            raise ValueError(f"an item must be a JSON object, got {value!r:.80}")
        tag, prompt = text(value, "tag"), text(value, "prompt")
        if tag is None or prompt is None:
            raise ValueError("`tag` and `prompt` must be non-empty texts")
        include = _constraints(value, "include")
        if not include:
            raise ValueError("`include` must list at least one object")
        return cls(
            number=number,
            tag=tag,
            prompt=prompt,
            include=include,
            exclude=_constraints(value, "exclude"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemSet:
    """Items of one source, with what identifies them."""

    source: str
    """`kit` or the name of the file."""
    sha256: str
    """Of the file's bytes."""
    items: tuple[Item, ...]
    """In file order."""


def read_items(
    path: Path,
    *,
    source: str | None = None,
    read_row: Callable[[object, int], Item] = Item.from_json,
) -> ItemSet:
    """Read an items file (UTF-8, with or without BOM, any line ending).

    Args:
        path: The file.
        source: What to call it; its name if not given.
        read_row: Makes an item of a row and its running index; ValueError says what is wrong.

    Raises:
        ItemsError: the file does not exist, a line is malformed, or an item is there twice.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ItemsError(
            f"no items file {path}; give kit, authors, hub:ORG/NAME or a JSONL file"
        ) from error
    except IsADirectoryError as error:
        raise ItemsError(f"{path} is a folder; give the JSONL file in it") from error
    return parse_items(data, path.name, source=source or path.name, read_row=read_row)


def parse_items(
    data: bytes, name: str, *, source: str, read_row: Callable[[object, int], Item]
) -> ItemSet:
    """Read the bytes of an items file, which messages call `name`; raises as `read_items`."""
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ItemsError(f"{name} is not UTF-8 text (byte {error.start})") from error
    items = _parse_lines(content.split("\n"), name, read_row)
    if not items:
        raise ItemsError(f"{name} holds no item")
    return ItemSet(source=source, sha256=hashlib.sha256(data).hexdigest(), items=tuple(items))


def select(items: Sequence[Item], limit: int | None) -> tuple[Item, ...]:
    """Return at most `limit` items, spread evenly over the tags, in their order."""
    if limit is None or limit >= len(items):
        return tuple(items)
    if limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {limit}")
    by_tag: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_tag[item.tag].append(item)
    turn = {item.number: place for group in by_tag.values() for place, item in enumerate(group)}
    chosen = sorted(items, key=lambda item: (turn[item.number], item.number))[:limit]
    return tuple(sorted(chosen, key=lambda item: item.number))


def tags(items: Iterable[Item]) -> list[str]:
    """Return the tags in first-seen order."""
    return list(Counter(item.tag for item in items))


def _parse_lines(
    lines: Sequence[str], name: str, read_row: Callable[[object, int], Item]
) -> list[Item]:
    items: list[Item] = []
    same: dict[tuple[str, str], int] = {}
    numbers: dict[int, int] = {}
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _row(line)
            item = read_row(row, len(items) + 1)
            _refuse_another_number(row, item)
        except RecursionError as error:
            raise ItemsError(f"{name}, line {line_number}: nested too deeply") from error
        except ValueError as error:  # JSONDecodeError is one
            raise ItemsError(f"{name}, line {line_number}: {error}") from error
        first = same.setdefault((item.prompt, item.key), line_number)
        if first != line_number:
            raise ItemsError(f"{name}, line {line_number}: the same item stands in line {first}")
        first = numbers.setdefault(item.number, line_number)
        if first != line_number:
            raise ItemsError(
                f"{name}, line {line_number}: id {item.number} stands in line {first} already; "
                "pictures are named after it, so give every item its own"
            )
        items.append(item)
    return items


def _refuse_another_number(row: object, item: Item) -> None:
    """GenEval numbers its items by line; an `id` that says otherwise names another picture."""
    given = row.get("id", item.number) if item.include and isinstance(row, dict) else item.number
    if given != item.number:
        raise ValueError(
            f"`id` is {given!r:.40}, but this is item {item.number} of the file, and its picture "
            f"is {item.number}.png; leave the ids away, or number the items from 1"
        )


def _row(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"not one JSON value on a line of its own ({error})") from error


def text(value: Mapping[Any, Any], key: str) -> str | None:
    """Return a row's text without surrounding blanks; None when absent or empty."""
    part = value.get(key)
    if part is None:
        return None
    if not isinstance(part, str):
        raise ValueError(f"`{key}` must be a text, got {part!r:.80}")
    if _HALF_A_CHARACTER.search(part):
        raise ValueError(f"`{key}` holds half of a character ({part!a:.80}); write it whole")
    return part.strip() or None


def _constraints(value: Mapping[Any, Any], key: str) -> tuple[Constraint, ...]:
    part = value.get(key) or []
    if not isinstance(part, list):
        raise ValueError(f"`{key}` must be a list, got {part!r:.80}")
    return tuple(Constraint.parse(entry) for entry in part)
