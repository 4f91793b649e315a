"""The plan: which rows are to be made, with their constraints, before a single call is paid.

A plan is a text file that follows from recipe, rows, seed, mix and reference pool alone, so that it
can be read, compared and made again byte for byte.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue, sha256_file, whole_file
from echo4o.schema import SUBSETS, check_constraints, check_id, check_instruction, dump_json

PLAN_NAME = "plan.jsonl"
PLAN_FORMAT = 1


class PlanError(Echo4oError):
    """A plan file that is missing, damaged or of another version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One picture to be made: a row, or a reference picture that rows need."""

    kind: Literal["reference", "row"]
    id: str
    """Unique in the plan; a row keeps it in the dataset."""
    prompt: str
    """What the image API is asked."""
    instruction: str
    """What the dataset row says; differs from `prompt` where that names pictures by number."""
    subset: str
    category: str
    constraints: Mapping[str, JsonValue]
    """Facts the picture must show, with GenEval++ keys."""
    references: tuple[str, ...] = ()
    """Ids of reference entries, in the order the prompt counts them."""
    repeat: int = 0
    """0 for the first entry with this prompt and these references, then 1, 2, ..."""
    source: Mapping[str, JsonValue] | None = None
    """For a reference that is given, not made: sha256, extension, width, height, register."""

    def to_line(self) -> str:
        """The entry's line in the plan file."""
        value = asdict(self)
        if self.source is None:
            del value["source"]
        return dump_json(cast(JsonValue, value)) + "\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A recipe's rows and the references they need."""

    recipe: str
    seed: int
    references: tuple[Entry, ...]
    rows: Collection[Entry]

    def to_text(self) -> str:
        """The plan file: a header line, references, rows."""
        header = {"kind": "plan", "format": PLAN_FORMAT, "recipe": self.recipe, "seed": self.seed}
        entries = "".join(entry.to_line() for entry in (*self.references, *self.rows))
        return dump_json(cast(JsonValue, header)) + "\n" + entries


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A plan whose rows are made as they are written, so that it never lies in memory."""

    recipe: str
    seed: int
    references: tuple[Entry, ...]
    rows: Iterable[Entry]
    """Can be read once."""
    count: int
    """Number of rows."""

    def lines(self, seen: Callable[[Entry], None]) -> Iterator[str]:
        """The plan file; `seen` is called with every row."""
        yield from (
            Plan(recipe=self.recipe, seed=self.seed, references=self.references, rows=())
            .to_text()
            .splitlines(keepends=True)
        )
        for row in self.rows:
            seen(row)
            yield row.to_line()


def write_plan(folder: Path, lines: Iterable[str], *, may_replace: bool) -> None:
    """Write the plan file whole or not at all, line by line.

    Raises:
        PlanError: there is another plan, and `may_replace` is False.
    """
    path, digest = folder / PLAN_NAME, hashlib.sha256()
    with whole_file(path) as file:
        for line in map(str.encode, lines):
            digest.update(line)
            file.write(line)
        if not may_replace and path.exists() and sha256_file(path) != digest.hexdigest():
            raise PlanError(f"{folder} holds another plan and its pictures; plan in a new folder")


class StoredRows(Collection[Entry]):
    """The rows of a plan file, read anew each time they are gone through: they never lie in memory.

    Raises (while it is gone through):
        PlanError: the file is another one than when it was checked.
    """

    def __init__(self, path: Path, *, offset: int, line: int, count: int) -> None:
        """The first row begins at byte `offset`, in line number `line`."""
        self._path = path
        self._offset = offset
        self._line = line
        self._count = count
        self._stamp = _stamp(path)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, entry: object) -> bool:
        return any(entry == row for row in self)

    def __iter__(self) -> Iterator[Entry]:
        with self._path.open("rb") as file:
            if _stamp(self._path) != self._stamp:
                raise PlanError(
                    f"{self._path} was changed while it was used; run the command again"
                )
            file.seek(self._offset)
            for number, line in enumerate(file, self._line):
                yield _entry(self._path, number, line.decode(errors="replace"))


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def read_plan(folder: Path) -> tuple[Plan, str]:
    """The plan of a folder and the SHA-256 of its file; the rows stay in the file.

    Raises:
        PlanError: it is missing, damaged, or of another format.
    """
    path = folder / PLAN_NAME
    header = _header(path)
    references: list[Entry] = []
    links = _Links(path)
    first = 0, 2
    for number, (offset, entry) in enumerate(_located(path), 2):
        links.add(entry)
        if entry.kind == "reference":
            references.append(entry)
            first = 0, number + 1
        elif first[0] == 0:
            first = offset, number
    rows = StoredRows(path, offset=first[0], line=first[1], count=links.rows)
    plan = Plan(
        recipe=str(header["recipe"]),
        seed=cast(int, header["seed"]),
        references=tuple(references),
        rows=rows if links.rows else (),
    )
    return plan, sha256_file(path)


def iterate_plan(folder: Path) -> Iterator[Entry]:
    """References and rows of a folder's plan one at a time, without the links being checked.

    Raises:
        PlanError: it is missing, damaged, or of another format.
    """
    path = folder / PLAN_NAME
    _header(path)
    for _, entry in _located(path):
        yield entry


def _header(path: Path) -> dict[str, JsonValue]:
    if not path.is_file():
        raise PlanError(f"there is no {PLAN_NAME} in {path.parent}; run `echo4o data plan` first")
    with path.open("rb") as file:
        header = _object(path, 1, file.readline().decode(errors="replace"))
    if header.get("kind") != "plan" or header.get("format") != PLAN_FORMAT:
        raise PlanError(
            f"{path} has plan format {header.get('format')!r}, this echo4o reads "
            f"{PLAN_FORMAT}; plan again in a new folder"
        )
    return header


def _located(path: Path) -> Iterator[tuple[int, Entry]]:
    """Every entry and the byte at which its line begins."""
    with path.open("rb") as file:
        offset = len(file.readline())
        for number, line in enumerate(file, 2):
            yield offset, _entry(path, number, line.decode(errors="replace"))
            offset += len(line)


def _object(path: Path, number: int, line: str) -> dict[str, JsonValue]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise PlanError(f"{path} line {number} is not JSON ({error}); plan again") from None
    if not isinstance(value, dict):
        raise PlanError(f"{path} line {number} is no object; plan again")
    return value


def _entry(path: Path, number: int, line: str) -> Entry:
    value = _object(path, number, line)
    try:
        value["references"] = tuple(cast(list[str], value["references"]))
        entry = Entry(**value)  # type: ignore[arg-type]
        if entry.kind not in ("reference", "row"):
            raise PlanError(f"its kind is {entry.kind!r}")
        check_id(entry.id)
        _check_source(entry)
        check_instruction(entry.instruction, entry.id)
        check_instruction(entry.prompt, entry.id)
        check_constraints(entry.constraints, entry.id)
    except (KeyError, TypeError, AttributeError, Echo4oError) as error:
        raise PlanError(f"{path} line {number} is no plan entry ({error}); plan again") from None
    return entry


def _check_source(entry: Entry) -> None:
    """The names become a path: nothing but a hash and a known ending may be in them."""
    if entry.source is None:
        return
    digest, extension = str(entry.source["sha256"]), entry.source["extension"]
    if not re.fullmatch("[0-9a-f]{64}", digest) or extension not in ("png", "jpg", "webp", "gif"):
        raise PlanError(f"its picture is {digest[:80]!r}.{extension!r}")


class _Links:
    """Checks that ids are unique and references planned before their rows; keeps hashes of ids."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids: set[int] = set()
        self._references: set[str] = set()
        self.rows = 0

    def add(self, entry: Entry) -> None:
        digest = hashlib.blake2b(entry.id.encode(), digest_size=8).digest()
        known = len(self._ids)
        self._ids.add(int.from_bytes(digest, "big"))
        if len(self._ids) == known:
            raise PlanError(f"{self._path} has two entries with id {entry.id!r}; plan again")
        if entry.kind == "reference":
            if self.rows:
                raise PlanError(f"{self._path}: reference {entry.id} comes after a row; plan again")
            self._references.add(entry.id)
            return
        self.rows += 1
        for name in entry.references:
            if name not in self._references:
                raise PlanError(
                    f"{self._path}: row {entry.id} needs {name!r}, which is not planned"
                )


class Repeats:
    """Counts how often the same was asked of the same references; keeps hashes, not texts."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def count(self, entry: Entry) -> int:
        """How many entries that were taken ask what this one asks."""
        return self._seen.get(self._key(entry), 0)

    def take(self, entry: Entry) -> int:
        """Take an entry; returns how many earlier ones asked the same."""
        key = self._key(entry)
        earlier = self._seen.get(key, 0)
        self._seen[key] = earlier + 1
        return earlier

    def _key(self, entry: Entry) -> bytes:
        text = "\0".join((entry.prompt, *entry.references))
        return hashlib.blake2b(text.encode(), digest_size=12).digest()


def quotas(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Split `total` by weights; the largest remainders get what rounding leaves over.

    Raises:
        ValueError: a weight is negative or none is positive.
    """
    whole = sum(weights.values())
    if min(weights.values()) < 0 or not whole > 0:
        raise ValueError(f"weights must be 0 or more and not all 0, got {dict(weights)}")
    exact = {name: total * weight / whole for name, weight in weights.items()}
    parts = {name: int(share) for name, share in exact.items()}
    by_rest = sorted(exact, key=lambda name: (parts[name] - exact[name], name))
    for name in by_rest[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


def parse_mix(text: str) -> dict[str, float]:
    """Read `subset=share,...`.

    Raises:
        ValueError: a subset is unknown or a share is no number.
    """
    shares = {}
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        if name not in SUBSETS:
            raise ValueError(f"--mix: {name!r} is no subset; the subsets are {', '.join(SUBSETS)}")
        try:
            shares[name] = float(share)
        except ValueError:
            raise ValueError(
                f"--mix: the share of {name} must be a number, got {share!r}"
            ) from None
    return shares
