"""The dataset row that every stage shares: fields, subsets, categories, checks of one row.

One schema for the three subsets, keeping the authors' field names (arXiv 2508.09987 and their
release); structured facts travel as JSON text so that `datasets` 4.0.0 and newer read them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from .errors import Echo4oError
from .records import JsonValue

if TYPE_CHECKING:
    from datasets import Features

FORMAT_VERSION = 1
"""Raised when a column changes its name or meaning."""
DATASET_NAME = "echo-4o-image"
MAX_REFERENCES = 4
MAX_INSTRUCTION_CHARACTERS = 8_000
REGIONS = ("left", "right", "above", "below")
SIZES = ("small", "large", "smaller", "larger")

CATEGORIES: dict[str, dict[str, int]] = {
    "surreal_fantasy": {
        "attribute_shift": 8_282,
        "hybridization": 11_977,
        "spatiotemporal": 8_401,
        "multi_object": 8_881,
    },
    "multi_reference": {
        "human_human": 11_084,
        "object_object": 24_001,
        "any_two_entities": 19_174,
        "human_object_scene": 13_566,
        "others": 4_904,
    },
    "instruction_following": {"easy": 14_137, "medium": 21_016, "hard": 32_805},
}
"""Subset -> category -> rows in the authors' release (the figure of their data; sum 178,228)."""
SUBSETS: tuple[str, ...] = tuple(CATEGORIES)
CONFIGS: tuple[str, ...] = ("all", *SUBSETS, "preview")
"""Names that `load_dataset(..., name)` takes; `all` is the default."""

TaskType = Literal["t2i", "ic"]
Split = Literal["train", "validation"]


class RowError(Echo4oError):
    """A row breaks the schema; the message names the row and the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An encoded picture exactly as it was received; its bytes are never changed."""

    data: bytes
    """The whole file (PNG, JPEG or WebP)."""
    name: str
    """File name without folders, for example `00000.jpg`."""

    def to_dict(self) -> dict[str, bytes | str]:
        """The cell of a `datasets.Image` column."""
        return {"bytes": self.data, "path": self.name}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One sample: an instruction, its references and the picture that follows it."""

    id: str
    """Unique in the dataset; letters, digits, `-`, `_` and `.` only."""
    task_type: TaskType
    """`t2i` (text to image) or `ic` (image collection: with references)."""
    subset: str
    """One of SUBSETS."""
    category: str | None = None
    """One of the subset's categories, None when the source does not say."""
    instruction: str
    """Text that the picture follows; the one to train on."""
    requested_instruction: str | None = None
    """What the generator was asked, when it differs from `instruction`."""
    input_images: tuple[Picture, ...] = ()
    """0 to 4 references in the order the instruction means."""
    output_image: Picture
    """The target."""
    type: str | None = None
    """The authors' code (`easy`, `T1`, ...), when known."""
    width: int
    """Of the target, pixels."""
    height: int
    """Of the target, pixels."""
    generator: str | None = None
    """Model that made the target."""
    license: str | None = None
    """Licence of the target as its source declares it."""
    split: Split = "train"
    """`train` or `validation`."""
    constraints: Mapping[str, JsonValue] | None = None
    """Facts the picture must show, with GenEval++ keys (`include`, `exclude`)."""
    references: tuple[Mapping[str, JsonValue], ...] = ()
    """Per reference: sha256, source, licence, attribution, depicts_person, consent."""
    provenance: Mapping[str, JsonValue] = field(default_factory=dict)
    """Request id, parameters, model, time, sha256 of every picture."""

    def to_dict(self) -> dict[str, object]:
        """The row in the column order of `features()`; JSON columns are compact, keys sorted."""
        return {
            "id": self.id,
            "task_type": self.task_type,
            "subset": self.subset,
            "category": self.category,
            "instruction": self.instruction,
            "requested_instruction": self.requested_instruction,
            "input_images": [picture.to_dict() for picture in self.input_images],
            "output_image": self.output_image.to_dict(),
            "type": self.type,
            "width": self.width,
            "height": self.height,
            "generator": self.generator,
            "license": self.license,
            "split": self.split,
            "constraints": None if self.constraints is None else dump_json(dict(self.constraints)),
            "references": dump_json([dict(entry) for entry in self.references]),
            "provenance": dump_json(dict(self.provenance)),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, object]) -> "Row":
        """Read a row loaded with `Image(decode=False)`; undoes `to_dict`.

        Raises:
            RowError: it has other columns, or values of other types.
        """
        values = dict(record)
        try:
            references = cast(list[Mapping[str, object]], values["input_images"])
            values["input_images"] = tuple(_picture(cell) for cell in references)
            values["output_image"] = _picture(cast(Mapping[str, object], values["output_image"]))
            if values["constraints"] is not None:
                values["constraints"] = json_object(record, "constraints")
            values["references"] = tuple(json_list(record, "references"))
            values["provenance"] = json_object(record, "provenance")
            for name, kind in _NEEDED.items():
                if not isinstance(values[name], kind):
                    raise TypeError(f"{name} is {values[name]!r:.40}")
            return cls(**values)  # type: ignore[arg-type]
        except (KeyError, TypeError, AttributeError) as error:
            raise RowError(
                f"row {str(values.get('id'))[:80]!r} is of another form ({type(error).__name__}: "
                f"{error}); give a dataset built by `echo4o data`"
            ) from None


def json_object(record: Mapping[str, object], column: str) -> dict[str, JsonValue]:
    """A JSON column of a loaded row; `{}` where it is empty.

    Raises:
        RowError: it holds anything but an object.
    """
    value = _json_cell(record, column, "{}")
    if not isinstance(value, dict):
        raise _no_json(record, column, "object")
    return value


def json_list(record: Mapping[str, object], column: str) -> list[Mapping[str, JsonValue]]:
    """A JSON column of a loaded row that lists objects; `[]` where it is empty.

    Raises:
        RowError: it holds anything else.
    """
    value = _json_cell(record, column, "[]")
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise _no_json(record, column, "list of objects")
    return cast(list[Mapping[str, JsonValue]], value)


def _json_cell(record: Mapping[str, object], column: str, empty: str) -> JsonValue:
    try:
        return cast(JsonValue, json.loads(str(record[column] or empty)))
    except (ValueError, RecursionError):
        raise _no_json(record, column, "text") from None


def _no_json(record: Mapping[str, object], column: str, wanted: str) -> RowError:
    return RowError(
        f"row {str(record['id'])[:80]}: `{column}` is no JSON {wanted}, it begins "
        f"{str(record[column])[:40]!r}; build the dataset again, or remove the row"
    )


def _picture(cell: Mapping[str, object]) -> Picture:
    return Picture(data=cast(bytes | None, cell["bytes"]) or b"", name=str(cell["path"] or ""))


def dump_json(value: JsonValue) -> str:
    """JSON text with one spelling for one value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def features() -> "Features":
    """Column types of the dataset (imports `datasets`)."""
    from datasets import Features, Image, List, Value

    text, number = Value("string"), Value("int32")
    return Features(
        {
            "id": text,
            "task_type": text,
            "subset": text,
            "category": text,
            "instruction": text,
            "requested_instruction": text,
            "input_images": List(Image()),
            "output_image": Image(),
            "type": text,
            "width": number,
            "height": number,
            "generator": text,
            "license": text,
            "split": text,
            "constraints": text,
            "references": text,
            "provenance": text,
        }
    )


def check_row(row: Row) -> None:
    """Refuse a row that breaks the schema.

    Raises:
        RowError: naming the row, the field, the value and what is allowed.
    """
    check_id(row.id)
    _require(row.subset in CATEGORIES, row, "subset", row.subset, f"one of {SUBSETS}")
    known = CATEGORIES[row.subset]
    _require(row.category in known or row.category is None, row, "category", row.category, known)
    _require(row.task_type in ("t2i", "ic"), row, "task_type", row.task_type, "t2i or ic")
    _require(row.split in ("train", "validation"), row, "split", row.split, "train or validation")
    check_instruction(row.instruction, row.id)
    count = len(row.input_images)
    allowed = range(1, MAX_REFERENCES + 1) if row.task_type == "ic" else range(1)
    _require(count in allowed, row, "input_images", count, f"{allowed.start} to {allowed[-1]}")
    _require(row.width > 0 and row.height > 0, row, "size", (row.width, row.height), "positive")
    for picture in (*row.input_images, row.output_image):
        _require(bool(picture.data), row, "picture", picture.name, "at least one byte")
    if row.constraints is not None:
        check_constraints(row.constraints, row.id)


def check_id(row_id: str) -> None:
    """Refuse an id that is empty or could lead somewhere as a part of a path."""
    if not row_id.strip(".") or not set(row_id) <= _ID_CHARACTERS:
        raise RowError(f"row {row_id[:80]!r}: `id` must be made of letters, digits, - _ and .")


def check_instruction(text: str, row_id: str) -> None:
    """Refuse an empty, endless or unprintable instruction (foreign text reaches pages and logs)."""
    if not text.strip():
        raise RowError(f"row {row_id}: `instruction` is empty; leave the row out")
    if len(text) > MAX_INSTRUCTION_CHARACTERS:
        raise RowError(
            f"row {row_id}: `instruction` has {len(text)} characters; "
            f"at most {MAX_INSTRUCTION_CHARACTERS} are allowed"
        )
    bad = _CONTROL.search(text)
    if bad is not None:
        raise RowError(f"row {row_id}: `instruction` holds the control character {bad[0]!r}")


_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def check_constraints(constraints: Mapping[str, JsonValue], row_id: str) -> None:
    """Refuse constraints without the GenEval++ keys and values.

    Raises:
        RowError: naming the row, the field, the value and what is allowed.
    """
    for side in ("include", "exclude"):
        entries = constraints.get(side, [])
        if not isinstance(entries, list | tuple):
            raise RowError(f"row {row_id}: constraints.{side} must be a list, got {entries!r}")
        for entry in entries:
            _check_entry(entry, side, row_id)


def _check_entry(entry: JsonValue, side: str, row_id: str) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("class"), str):
        raise RowError(f"row {row_id}: constraints.{side} needs entries with a `class`: {entry!r}")
    count, region, size = entry.get("count", 1), entry.get("region"), entry.get("size")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise RowError(f"row {row_id}: constraints.{side} count must be at least 1, got {count!r}")
    if region is not None and region not in REGIONS:
        raise RowError(f"row {row_id}: constraints region {region!r} is not one of {REGIONS}")
    if size is not None and size not in SIZES:
        raise RowError(f"row {row_id}: constraints size {size!r} is not one of {SIZES}")


def included(constraints: Mapping[str, JsonValue]) -> list[dict[str, JsonValue]]:
    """The groups of objects that must be there; what is no group (foreign facts) is left out."""
    groups = constraints.get("include")
    found = groups if isinstance(groups, list | tuple) else ()
    return [one for one in found if isinstance(one, dict)]


def constraint_key(constraints: Mapping[str, JsonValue]) -> str:
    """One string per set of asked facts: the multiset of (class, count, colour, region, size).

    Two instructions with the same key ask for the same picture, however they are worded; larger
    and smaller count as large and small.
    """
    return ";".join(sorted(_entry_key(entry) for entry in included(constraints)))


def _entry_key(entry: Mapping[str, JsonValue]) -> str:
    count = entry.get("count") or 1
    return dump_json([count, *(_folded(entry.get(name)) for name in _KEYED)])


def _folded(value: JsonValue) -> JsonValue:
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    return {"larger": "large", "smaller": "small", "": None}.get(text, text)


_NEEDED = {
    "id": str,
    "task_type": str,
    "subset": str,
    "instruction": str,
    "width": int,
    "height": int,
    "split": str,
}
_KEYED = ("class", "color", "region", "size")
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def _require(holds: bool, row: Row, name: str, value: object, allowed: object) -> None:
    if not holds:
        listed = ", ".join(allowed) if isinstance(allowed, dict) else allowed
        raise RowError(f"row {row.id}: `{name}` is {value!r}; allowed: {listed}")
