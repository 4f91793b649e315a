"""How far two detectors say the same about the same pictures, verdict by verdict.

The other side is a run of ours, or a file of verdicts: the `results.jsonl` of GenEval's own script
(names a picture by its file, 00000/samples/0000.png), or lines {"number", "sample", "correct"}.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from echo4o.errors import Echo4oError

from .intervals import Score, stratified
from .runs import Run, load_run

Verdicts: TypeAlias = Mapping[tuple[int, int], bool]
"""By item number and picture, both from 1: whether it was right."""
_FILE = re.compile(r"(?:^|[\\/])(\d{5})[\\/]samples[\\/](\d+)\.png\Z", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Same:
    """Agreement over some pictures."""

    share: Score
    """Of pictures with the same verdict; pictures of one prompt count as one item."""
    kappa: float | None
    """Cohen's; None where one side says the same of all pictures."""
    table: tuple[int, int, int, int]
    """Both right, only the run, only the other, both wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """What `compare_verdicts` found."""

    overall: Same
    by_tag: dict[str, Same]
    run_only: int
    """Pictures that only the run has."""
    other_only: int

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {
            "overall": _plain(self.overall),
            "by_tag": {tag: _plain(one) for tag, one in self.by_tag.items()},
            "run_only": self.run_only,
            "other_only": self.other_only,
        }


def read_verdicts(path: Path) -> Verdicts:
    """Read the other side.

    Raises:
        Echo4oError: it is neither a run nor a file of verdicts, or a picture stands there twice.
    """
    if path.is_dir() or path.suffix == ".json":
        return run_verdicts(load_run(path))
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Echo4oError(f"{path} cannot be read as a file of verdicts ({error})") from error
    found: dict[tuple[int, int], bool] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            key, correct = _verdict(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise Echo4oError(f"{path}, line {number}: {error}") from error
        if key in found:
            raise Echo4oError(
                f"{path}, line {number}: picture {key[1]} of item {key[0]} stands there twice"
            )
        found[key] = correct
    if not found:
        raise Echo4oError(f"{path} holds no verdict")
    return found


def run_verdicts(run: Run) -> Verdicts:
    """Return the verdicts of a run's pictures; those without a picture are left out."""
    return {
        (one.number, one.sample): one.correct
        for one in run.verdicts
        if one.outcome == "judged" and one.repeat == 1
    }


def compare_verdicts(run: Run, other: Verdicts) -> Agreement:
    """Return how far a run and another side agree on the pictures that both have.

    Raises:
        Echo4oError: they have no picture in common.
    """
    own = run_verdicts(run)
    tags = {one.number: one.tag for one in run.verdicts}
    common = sorted(own.keys() & other.keys())
    if not common:
        raise Echo4oError(
            "the run and the other verdicts have no picture in common; both number items and "
            "pictures from the same files"
        )
    pairs: dict[str, list[tuple[int, bool, bool]]] = defaultdict(list)
    for key in common:
        pairs[tags[key[0]]].append((key[0], own[key], other[key]))
    return Agreement(
        overall=_same([pair for group in pairs.values() for pair in group]),
        by_tag={tag: _same(group) for tag, group in pairs.items()},
        run_only=len(own.keys() - other.keys()),
        other_only=len(other.keys() - own.keys()),
    )


def agreement_lines(found: Agreement) -> list[str]:
    """Return a table for people."""
    lines = [f"{'':16}{'same verdict':>22}  kappa  both right  only run  only other  both wrong"]
    for name, one in [("overall", found.overall), *found.by_tag.items()]:
        share, low, high = (100 * part for part in (one.share.score, one.share.low, one.share.high))
        kappa = "    -" if one.kappa is None else f"{one.kappa:5.2f}"
        counts = "".join(
            f"{count:>{width}}" for count, width in zip(one.table, (12, 10, 12, 12), strict=True)
        )
        lines.append(f"{name:16}{share:7.1f} % [{low:4.1f}, {high:4.1f}]  {kappa}{counts}")
    if found.run_only or found.other_only:
        lines.append(
            f"left out: {found.run_only} pictures that only the run has, {found.other_only} that "
            "only the other side has"
        )
    return lines


def _verdict(value: object) -> tuple[tuple[int, int], bool]:
    if not isinstance(value, Mapping):
        raise ValueError(f"a verdict must be a JSON object, got {value!r:.80}")
    correct = value.get("correct")
    if correct not in (True, False):
        raise ValueError(f"`correct` is {correct!r:.40}, neither true nor false")
    if "filename" in value:
        match = _FILE.search(str(value["filename"]))
        if match is None:
            raise ValueError(f"`filename` {value['filename']!r:.80} is no 00000/samples/0000.png")
        return (int(match[1]) + 1, int(match[2]) + 1), bool(correct)
    number, sample = value.get("number"), value.get("sample", 1)
    if type(number) is not int or type(sample) is not int or min(number, sample) < 1:
        raise ValueError("a verdict needs `filename`, or `number` and `sample` from 1")
    return (number, sample), bool(correct)


def _same(pairs: list[tuple[int, bool, bool]]) -> Same:
    items: dict[int, list[float]] = defaultdict(list)
    for number, one, other in pairs:
        items[number].append(float(one == other))
    shares = [sum(group) / len(group) for group in items.values()]
    both = sum(one and other for _, one, other in pairs)
    first, second = sum(one for _, one, _ in pairs), sum(other for *_, other in pairs)
    total = len(pairs)
    neither = total - first - second + both
    chance = (first * second + (total - first) * (total - second)) / total**2
    seen = (both + neither) / total
    return Same(
        share=stratified({"": shares}, macro=False),
        kappa=None if chance == 1 else (seen - chance) / (1 - chance),
        table=(both, first - both, second - both, neither),
    )


def _plain(one: Same) -> dict[str, Any]:
    return {"same": one.share.to_json(), "kappa": one.kappa, "table": list(one.table)}
