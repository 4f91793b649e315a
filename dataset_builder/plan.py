"""The plan: which rows are to be made, with their constraints, before a single call is paid.

A plan is a text file that follows from recipe, rows, seed and mix alone, so that it can be read,
compared and made again byte for byte.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue, sha256_bytes
from echo4o.schema import SUBSETS, check_constraints, check_instruction, dump_json

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

    def to_line(self) -> str:
        """The entry's line in the plan file."""
        return dump_json(cast(JsonValue, asdict(self))) + "\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A recipe's rows and the references they need."""

    recipe: str
    seed: int
    references: tuple[Entry, ...]
    rows: tuple[Entry, ...]

    def to_text(self) -> str:
        """The plan file: a header line, references, rows."""
        header = {"kind": "plan", "format": PLAN_FORMAT, "recipe": self.recipe, "seed": self.seed}
        entries = "".join(entry.to_line() for entry in (*self.references, *self.rows))
        return dump_json(cast(JsonValue, header)) + "\n" + entries

    def coverage(self) -> dict[str, JsonValue]:
        """How often each subset, category and fact is planned."""
        tags = Counter(str(row.constraints.get("tag", "none")) for row in self.rows)
        categories = Counter(f"{row.subset}/{row.category}" for row in self.rows)
        facts: dict[str, Counter[str]] = {}
        for row in self.rows:
            for group in cast(list[Mapping[str, JsonValue]], row.constraints["include"]):
                for name, value in group.items():
                    facts.setdefault(name, Counter())[str(value)] += 1
        return {
            "rows": len(self.rows),
            "references": len(self.references),
            "categories": _sorted(categories),
            "tags": _sorted(tags),
            "facts": {name: _sorted(counts) for name, counts in sorted(facts.items())},
        }


def _sorted(counts: Counter[str]) -> dict[str, JsonValue]:
    return dict(sorted(counts.items()))


def read_plan(folder: Path) -> tuple[Plan, str]:
    """The plan of a folder and the SHA-256 of its file.

    Raises:
        PlanError: it is missing, damaged, or of another format.
    """
    path = folder / PLAN_NAME
    if not path.is_file():
        raise PlanError(f"there is no {PLAN_NAME} in {folder}; run `echo4o data plan` first")
    data = path.read_bytes()
    lines = data.decode(errors="replace").splitlines()
    header = _object(path, 1, lines[0] if lines else "")
    if header.get("kind") != "plan" or header.get("format") != PLAN_FORMAT:
        raise PlanError(
            f"{path} has plan format {header.get('format')!r}, this echo4o reads {PLAN_FORMAT}; "
            "plan again in a new folder"
        )
    entries = [_entry(path, number, line) for number, line in enumerate(lines[1:], 2)]
    plan = Plan(
        recipe=str(header["recipe"]),
        seed=cast(int, header["seed"]),
        references=tuple(entry for entry in entries if entry.kind == "reference"),
        rows=tuple(entry for entry in entries if entry.kind == "row"),
    )
    _check_links(path, plan)
    return plan, sha256_bytes(data)


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
        check_instruction(entry.instruction, entry.id)
        check_constraints(entry.constraints, entry.id)
    except (KeyError, TypeError, AttributeError, Echo4oError) as error:
        raise PlanError(f"{path} line {number} is no plan entry ({error}); plan again") from None
    return entry


def _check_links(path: Path, plan: Plan) -> None:
    ids = [entry.id for entry in (*plan.references, *plan.rows)]
    if len(set(ids)) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise PlanError(f"{path} has two entries with id {twice!r}; plan again")
    known = {entry.id for entry in plan.references}
    for row in plan.rows:
        for name in row.references:
            if name not in known:
                raise PlanError(f"{path}: row {row.id} needs {name!r}, which is not planned")


def number_repeats(entries: Iterable[Entry]) -> list[int]:
    """For each entry, how many earlier ones ask the same of the same references."""
    seen: Counter[tuple[str, tuple[str, ...]]] = Counter()
    repeats = []
    for entry in entries:
        repeats.append(seen[entry.prompt, entry.references])
        seen[entry.prompt, entry.references] += 1
    return repeats


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


def join(phrases: Sequence[str]) -> str:
    """English list: "x", "x and y", "x, y, and z"."""
    if len(phrases) < 3:
        return " and ".join(phrases)
    return ", ".join(phrases[:-1]) + f", and {phrases[-1]}"
