"""What people said about a run's pictures, and how far the judge agrees with them.

One file a rater, written whole after each vote. A vote belongs to the bytes of its picture: where
the picture has changed since, it no longer counts.
"""

import datetime
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from echo4o.errors import Echo4oError
from echo4o.records import sha256_file, write_atomic

from .agreement import Agreement, agreement
from .authors_points import weigh
from .imagine_kit import MARKS
from .protocols import Finding
from .runs import Run, load_run
from .tasks import get_task
from .verdicts import Verdict

PEOPLE = "people"
ADJUDICATOR = "adjudicated"
"""The name under which the last word on disputed pictures is kept."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_FORMAT = 1
_APART = 2.0
"""Points: two raters who differ by more have a dispute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One picture that people are asked about."""

    key: str
    """`7`, or `7-2` for the second picture of item 7."""
    verdict: Verdict
    """The judge's; never shown."""
    path: Path
    sha256: str


class Vote(NamedTuple):
    """What one person said about one picture."""

    marks: tuple[int, ...]
    """(1,) or (0,) where an item is right or wrong; else a mark from 0 to 10 for each aspect."""
    picture: str
    """SHA-256 of the picture's file."""
    at: str

    @property
    def value(self) -> float:
        """What the vote counts: 0 or 1, or points."""
        return float(self.marks[0]) if len(self.marks) == 1 else weigh(_findings(self.marks))


class People(NamedTuple):
    """What a run's human verdicts come to."""

    raters: tuple[str, ...]
    seen: int
    """Pictures with at least one vote."""
    twice: int
    """Pictures with votes of two people or more."""
    disputes: int
    """Pictures on which they disagree, and nobody has had the last word yet."""
    among: tuple[Agreement, dict[str, Agreement]] | None
    """Alpha of the raters with each other."""
    judge: tuple[Agreement, dict[str, Agreement]] | None
    """Alpha of the judge with the people's verdict."""
    same: dict[str, tuple[float, int]]
    """By tag, "overall" first: share of pictures on which judge and people say the same (in points:
    mean distance), and number of pictures."""


def shown_pictures(run: Run) -> list[Shown]:
    """Return every picture of a run that is there, once, in item order."""
    shown: dict[str, Shown] = {}
    for one in run.verdicts:
        key = str(one.number) if one.sample == 1 else f"{one.number}-{one.sample}"
        if one.picture is None or key in shown:
            continue
        path = run.pictures / Path(one.picture).name
        if path.is_file():
            shown[key] = Shown(key=key, verdict=one, path=path, sha256=sha256_file(path))
    return list(shown.values())


def marks_of(run: Run) -> tuple[str, ...]:
    """Return the aspects that people mark; empty where a picture is right or wrong."""
    return () if get_task(run.task).grading is None else tuple(MARKS)


class Votes:
    """The votes of one rater, on disk."""

    def __init__(self, path: Path, rater: str, votes: dict[str, Vote]) -> None:
        self.rater = rater
        self.votes = votes
        self._path = path

    @classmethod
    def open(cls, run_folder: Path, rater: str) -> Self:
        """Read a rater's votes; none yet if there is no file.

        Raises:
            Echo4oError: the name cannot be one, or the file is damaged.
        """
        if not _NAME.fullmatch(rater):
            raise Echo4oError(
                f"a rater's name has lower-case letters, digits, - and _, at most 40; not {rater!r}"
            )
        path = run_folder / PEOPLE / f"{rater}.json"
        try:
            value = json.loads(path.read_bytes())
            if value["format"] != _FORMAT:
                raise ValueError(f"format {value['format']!r}")
            votes = {key: _read_vote(one) for key, one in value["votes"].items()}
        except FileNotFoundError:
            votes = {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Echo4oError(f"{path} is damaged ({error!r}); restore it from a copy") from error
        return cls(path, rater, votes)

    def cast(self, shown: Shown, marks: Sequence[int]) -> Vote:
        """Keep a vote; it is on the disk when this returns."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        vote = Vote(tuple(marks), shown.sha256, now)
        self.votes[shown.key] = vote
        value = {
            "format": _FORMAT,
            "rater": self.rater,
            "votes": {
                key: {"marks": list(one.marks), "picture": one.picture, "at": one.at}
                for key, one in self.votes.items()
            },
        }
        write_atomic(self._path, json.dumps(value, indent=1) + "\n")
        return vote

    def of(self, shown: Shown) -> Vote | None:
        """Return the vote on a picture as it is now."""
        vote = self.votes.get(shown.key)
        return vote if vote is not None and vote.picture == shown.sha256 else None


def all_votes(run_folder: Path) -> list[Votes]:
    """Return the votes of every rater, the adjudicator's not among them."""
    names = sorted(path.stem for path in (run_folder / PEOPLE).glob("*.json"))
    return [Votes.open(run_folder, name) for name in names if name != ADJUDICATOR]


def is_disputed(given: Sequence[Vote]) -> bool:
    """Whether two people or more have voted and do not agree."""
    values = [one.value for one in given]
    if len(values) < 2:
        return False
    is_points = any(len(one.marks) > 1 for one in given)
    return max(values) - min(values) > (_APART if is_points else 0)


def read_people(run_folder: Path) -> People | None:
    """Return what people said about a run; None when nobody has said anything."""
    run = load_run(run_folder)
    raters = all_votes(run_folder)
    last_word = Votes.open(run_folder, ADJUDICATOR)
    shown = shown_pictures(run) if raters else []
    given = {one.key: [v for r in raters if (v := r.of(one)) is not None] for one in shown}
    if not any(given.values()):
        return None
    settled: dict[str, float] = {}
    disputes = 0
    for one in shown:
        word = last_word.of(one)
        if word is not None:
            settled[one.key] = word.value
        elif is_disputed(given[one.key]):
            disputes += 1
        elif given[one.key]:
            values = [vote.value for vote in given[one.key]]
            settled[one.key] = sum(values) / len(values)
    each = [[_verdict(s, v.value) for s in shown if (v := r.of(s)) is not None] for r in raters]
    people = [_verdict(one, settled[one.key]) for one in shown if one.key in settled]
    return People(
        raters=tuple(one.rater for one in raters),
        seen=sum(bool(votes) for votes in given.values()),
        twice=sum(len(votes) > 1 for votes in given.values()),
        disputes=disputes,
        among=_agreement(each),
        judge=_agreement([people, run.verdicts]),
        same=_same(run, shown, settled),
    )


def _same(
    run: Run, shown: Sequence[Shown], settled: Mapping[str, float]
) -> dict[str, tuple[float, int]]:
    is_points = get_task(run.task).grading is not None
    found: dict[str, list[float]] = defaultdict(list)
    for one in shown:
        if one.key in settled and one.verdict.outcome == "judged":
            distance = abs(settled[one.key] - one.verdict.value)
            said = distance if is_points else float(distance < 0.5)
            found["overall"].append(said)
            found[one.verdict.tag].append(said)
    return {name: (sum(values) / len(values), len(values)) for name, values in found.items()}


def _agreement(
    judges: Sequence[Sequence[Verdict]],
) -> tuple[Agreement, dict[str, Agreement]] | None:
    try:
        return agreement([one for one in judges if one])
    except Echo4oError:  # one rater only, or no picture that two have seen
        return None


def _verdict(shown: Shown, value: float) -> Verdict:
    """A person's verdict in the judge's form."""
    is_points = shown.verdict.points is not None
    right = not is_points and value >= 0.5
    finding = Finding(expectation="all of it", satisfied=right, reason="", points=None)
    return replace(
        shown.verdict,
        outcome="judged",
        correct=right,
        points=value if is_points else None,
        findings=(finding,),
        repeat=1,
    )


def _findings(marks: Sequence[int]) -> list[Finding]:
    return [
        Finding(expectation=name, satisfied=mark == 10, reason="", points=float(mark))
        for name, mark in zip(MARKS, marks, strict=True)
    ]


def _read_vote(value: Mapping[str, Any]) -> Vote:
    marks = value["marks"]
    if not marks or any(type(mark) is not int or not 0 <= mark <= 10 for mark in marks):
        raise ValueError(f"marks {marks!r:.40}")
    return Vote(tuple(marks), str(value["picture"]), str(value["at"]))
