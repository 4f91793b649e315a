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
from .items import Item
from .protocols import Finding
from .runs import Run, kept_items, load_run
from .sheets import Sheet
from .tasks import get_task
from .verdicts import Verdict

PEOPLE = "people"
ADJUDICATOR = "adjudicated"
"""The name under which the last word on disputed pictures is kept."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_FORMAT = 1
_APART = 0.2
"""Share of the points: two raters who differ by more have a dispute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One picture that people are asked about."""

    key: str
    """`7`, or `7-2` for the second picture of item 7."""
    verdict: Verdict
    """The judge's; never shown."""
    path: Path
    sha256: str
    sheet: Sheet
    """What people mark."""


class Vote(NamedTuple):
    """What one person said about one picture."""

    marks: tuple[int, ...]
    """(1,) or (0,) where an item is right or wrong; else a mark for each line of its sheet."""
    picture: str
    """SHA-256 of the picture's file."""
    at: str


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


def shown_pictures(folder: Path, run: Run) -> list[Shown]:
    """Return every picture of a run that is there, once, in item order.

    Raises:
        Echo4oError: people answer questions of the items, and the run kept none.
    """
    shown: dict[str, Shown] = {}
    sheets = _Sheets(folder, run)
    for one in run.verdicts:
        key = str(one.number) if one.sample == 1 else f"{one.number}-{one.sample}"
        if one.picture is None or key in shown:
            continue
        path = run.pictures / Path(one.picture).name
        if path.is_file():
            shown[key] = Shown(
                key=key,
                verdict=one,
                path=path,
                sha256=sha256_file(path),
                sheet=sheets.of(one),
            )
    return list(shown.values())


class _Sheets:
    """The sheets of a run's items, each made once."""

    def __init__(self, folder: Path, run: Run) -> None:
        self._make = get_task(run.task).hooks.sheet
        self._items = kept_items(folder, run) if self._make is not None else {}
        self._known: dict[int, Sheet] = {}

    def of(self, one: Verdict) -> Sheet:
        if one.number not in self._known:
            bare = Item(number=one.number, tag=one.tag, prompt=one.prompt)
            item = self._items.get(one.number, bare)
            self._known[one.number] = Sheet() if self._make is None else self._make(item)
        return self._known[one.number]


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
        """Return the vote on a picture and its questions as they are now."""
        vote = self.votes.get(shown.key)
        if vote is None or vote.picture != shown.sha256 or not shown.sheet.allows(vote.marks):
            return None
        return vote


def all_votes(run_folder: Path) -> list[Votes]:
    """Return the votes of every rater, the adjudicator's not among them."""
    names = sorted(path.stem for path in (run_folder / PEOPLE).glob("*.json"))
    return [Votes.open(run_folder, name) for name in names if name != ADJUDICATOR]


def is_disputed(shown: Shown, given: Sequence[Vote]) -> bool:
    """Whether two people or more have voted on a picture and do not agree."""
    values = [shown.sheet.value(one.marks) for one in given]
    apart = _APART * shown.sheet.scale if shown.sheet.lines else 0.0
    return len(values) > 1 and max(values) - min(values) > apart


def read_people(run_folder: Path) -> People | None:
    """Return what people said about a run; None when nobody has said anything."""
    run = load_run(run_folder)
    raters = all_votes(run_folder)
    last_word = Votes.open(run_folder, ADJUDICATOR)
    shown = shown_pictures(run_folder, run) if raters else []
    given = {one.key: [v for r in raters if (v := r.of(one)) is not None] for one in shown}
    if not any(given.values()):
        return None
    settled: dict[str, float] = {}
    disputes = 0
    for one in shown:
        word = last_word.of(one)
        if word is not None:
            settled[one.key] = one.sheet.value(word.marks)
        elif is_disputed(one, given[one.key]):
            disputes += 1
        elif given[one.key]:
            values = [one.sheet.value(vote.marks) for vote in given[one.key]]
            settled[one.key] = sum(values) / len(values)
    each = [
        [
            _verdict(one, one.sheet.value(vote.marks))
            for one in shown
            if (vote := rater.of(one)) is not None
        ]
        for rater in raters
    ]
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


def _read_vote(value: Mapping[str, Any]) -> Vote:
    marks = value["marks"]
    if not marks or any(type(mark) is not int or not 0 <= mark <= 10 for mark in marks):
        raise ValueError(f"marks {marks!r:.40}")
    return Vote(tuple(marks), str(value["picture"]), str(value["at"]))
