"""Keeps benchmark items out of a plan.

Rows with facts are compared by their key (multiset of class, count, colour, region, size): the same
key is dropped, the same classes in the same relation are reported. Text similarity would be useless
there: one changed colour leaves the sentence nearly as it was. Surreal rows are compared with items
that name the same object, by the words they share; reference pictures by their hashes.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from echo4o.errors import Echo4oError
from echo4o.pictures import PictureError
from echo4o.records import Input, JsonValue, sha256_bytes, sha256_file
from echo4o.schema import check_constraints, dump_json

from .item_keys import facts_key, skeleton_key
from .picture_hash import difference_hash, distance
from .similarity import TextIndex

if TYPE_CHECKING:
    import pyarrow as pa

DROPPED_NAME = "plan.dropped.jsonl"
SIMILAR_NAME = "plan.similar.jsonl"
DROPPED_FROM = 0.75
"""Similarity from which a surreal row is the item in other words."""
REPORTED_FROM = 0.5
SAME_PICTURE_BITS = 16
"""Re-encoded and scaled pictures differ in fewer of the 256 bits than this, others in more."""
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_EXAMPLES = 3
_SEVERAL = "Multi-Object"
"""How Imagine-Bench marks items about several objects."""


class _Item(NamedTuple):
    file: str
    line: int


class _Texts:
    """Items in words."""

    def __init__(self) -> None:
        self.index = TextIndex()
        self.items: list[_Item] = []

    def add(self, text: str, item: _Item) -> None:
        """Add one item."""
        self.index.add(text)
        self.items.append(item)


class Blocklist:
    """Benchmark items that no planned row may ask for; remembers what it refused."""

    def __init__(self, paths: Sequence[Path] = ()) -> None:
        """Read JSON lines with `include` (GenEval++) or `prompt` / `instruction` (Imagine-Bench).

        A picture, or a folder of pictures, keeps those pictures from being references.

        Raises:
            Echo4oError: a file cannot be read, or a line is no item.
        """
        self.inputs = tuple(_input(path) for path in paths)
        self._keys: dict[str, _Item] = {}
        self._skeletons: dict[str, _Item] = {}
        self._texts: dict[str, _Item] = {}
        self._single, self._several = _Texts(), _Texts()
        self._pictures: dict[str, _Item] = {}
        self._looks: list[tuple[int, _Item]] = []
        self._refused: dict[str, dict[str, JsonValue]] = {}
        self._similar: dict[tuple[_Item, str], dict[str, JsonValue]] = {}
        for path in paths:
            self._read(path)

    def __len__(self) -> int:
        return len(self._keys) + len(self._texts) + len(self._pictures)

    def allows(self, instruction: str, constraints: Mapping[str, JsonValue]) -> bool:
        """False for a row that asks what an item asks; such a row is remembered."""
        if not len(self):
            return True
        key = facts_key(constraints)
        item = self._keys.get(key) or self._texts.get(normalised(instruction))
        if item is not None:
            self._refuse(key, instruction, item, "same facts or text")
            return False
        if "deflected" in constraints:
            return self._allows_surreal(instruction, constraints)
        item = self._skeletons.get(skeleton_key(constraints))
        if item is not None:
            self._report(item, "same classes and relation", instruction)
        return True

    def kept(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        """The rows of a batch that `allows` them, by its columns `instruction` and `constraints`.

        The same for built rows: what an engine does with each batch of a dataset.
        """
        import pyarrow as pa

        texts = batch.column("instruction").to_pylist()
        facts = batch.column("constraints").to_pylist()
        mask = [
            self.allows(text, json.loads(fact or "{}"))
            for text, fact in zip(texts, facts, strict=True)
        ]
        return batch.filter(pa.array(mask, pa.bool_()))

    def allows_picture(self, data: bytes, name: str) -> bool:
        """False for a picture that is one of the benchmark's, also re-encoded or scaled.

        Raises:
            PictureError: the picture does not decode.
        """
        if not self._pictures:
            return True
        digest, look = sha256_bytes(data), difference_hash(data)
        item = self._pictures.get(digest)
        item = item or next(
            (i for o, i in self._looks if distance(look, o) < SAME_PICTURE_BITS), None
        )
        if item is None:
            return True
        self._refuse(digest, name, item, "same picture")
        return False

    @property
    def dropped(self) -> list[dict[str, JsonValue]]:
        """What was refused: instruction, key, the item's file and line, why, how often."""
        return list(self._refused.values())

    @property
    def similar(self) -> list[dict[str, JsonValue]]:
        """What stayed although it is close to an item: file, line, how, how many rows, examples."""
        return list(self._similar.values())

    def report(self) -> str:
        """The list of refused rows as JSON lines."""
        return "".join(dump_json(entry) + "\n" for entry in self.dropped)

    def report_similar(self) -> str:
        """The list of close rows that stayed, as JSON lines."""
        return "".join(dump_json(entry) + "\n" for entry in self.similar)

    def _allows_surreal(self, instruction: str, constraints: Mapping[str, JsonValue]) -> bool:
        # "x and y" has the words of both objects: an item must name both.
        named = str(constraints["object"])
        texts = self._several if " and " in named else self._single
        number, score = texts.index.nearest(instruction, named)
        if score >= DROPPED_FROM:
            self._refuse(normalised(instruction), instruction, texts.items[number], "same words")
            return False
        if score >= REPORTED_FROM:
            self._report(texts.items[number], "similar words", instruction)
        return True

    def _refuse(self, key: str, instruction: str, item: _Item, why: str) -> None:
        new: dict[str, JsonValue] = {"instruction": instruction, "key": key, "why": why}
        new |= {"against": item.file, "line": item.line, "times": 0}
        entry = self._refused.setdefault(key, new)
        entry["times"] = cast(int, entry["times"]) + 1

    def _report(self, item: _Item, how: str, instruction: str) -> None:
        new: dict[str, JsonValue] = {"against": item.file, "line": item.line, "how": how}
        new |= {"rows": 0, "examples": []}
        entry = self._similar.setdefault((item, how), new)
        entry["rows"] = cast(int, entry["rows"]) + 1
        examples = cast(list[JsonValue], entry["examples"])
        if len(examples) < _EXAMPLES:
            examples.append(instruction)

    def _read(self, path: Path) -> None:
        if path.is_dir() or path.suffix.lower() in _PICTURES:
            for picture in _pictures(path):
                self._add_picture(picture)
            return
        for number, line in enumerate(_text(path).splitlines(), 1):
            if line.strip():
                self._add(path, number, line)

    def _add_picture(self, path: Path) -> None:
        data = path.read_bytes()
        item = _Item(path.name, 0)
        try:
            self._looks.append((difference_hash(data), item))
        except PictureError as error:
            raise Echo4oError(f"--against {path} is no picture: {error}") from None
        self._pictures.setdefault(sha256_bytes(data), item)

    def _add_text(self, text: str, kind: JsonValue, item: _Item) -> None:
        """An item about several objects is no item about one; without a type it may be either."""
        if kind != _SEVERAL:
            self._single.add(text, item)
        if kind in (_SEVERAL, None):
            self._several.add(text, item)

    def _add(self, path: Path, number: int, line: str) -> None:
        item = _Item(path.name, number)
        try:
            found = json.loads(line)
            if "include" in found:
                check_constraints(found, str(number))
                self._keys.setdefault(facts_key(found), item)
                self._skeletons.setdefault(skeleton_key(found), item)
            else:
                text = found["prompt"] if "prompt" in found else found["instruction"]
                self._texts.setdefault(normalised(text), item)
                self._add_text(text, found.get("type"), item)
        except (ValueError, LookupError, TypeError, AttributeError, Echo4oError) as error:
            raise Echo4oError(
                f"--against {path} line {number} is no benchmark item ({error})"
            ) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Echo4oError(f"--against {path} is no UTF-8 text ({error.reason})") from None


def _pictures(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    found = sorted(one for one in path.rglob("*") if one.suffix.lower() in _PICTURES)
    if not found:
        raise Echo4oError(f"--against {path} holds no pictures; give a file or another folder")
    yield from found


def _input(path: Path) -> Input:
    if path.is_dir():
        return Input(kind="pictures", id=path.name)
    if not path.is_file():
        raise Echo4oError(
            f"--against {path}: there is no such file; give benchmark items (JSON lines), a "
            "picture, or a folder of pictures"
        )
    return Input(kind="items", id=path.name, sha256=sha256_file(path))


def normalised(text: str) -> str:
    """Lower case, letters and digits only, single spaces."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def summary(block: Blocklist) -> dict[str, JsonValue]:
    """Counts for the plan's record."""
    reasons = Counter(str(entry["why"]) for entry in block.dropped)
    close: Counter[str] = Counter()
    for entry in block.similar:
        close[str(entry["how"])] += cast(int, entry["rows"])
    return {
        "blocked_items": len(block),
        "dropped": len(block.dropped),
        "dropped_by_reason": dict(sorted(reasons.items())),
        "similar_rows": dict(sorted(close.items())),
    }
