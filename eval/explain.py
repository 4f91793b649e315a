"""Says what the three readings of the authors' protocol make of one run, and where they differ.

Nobody is asked anything: the replies that the run kept are read again, and its pictures looked at.
A reply to other words than the authors' says nothing about the readings, so `kit` runs are refused.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from echo4o.client import Reply
from echo4o.errors import Echo4oError

from .cases import Case, unasked
from .items import Item
from .protocols import JudgeProtocol
from .runs import Run
from .series import SeriesProtocol
from .tasks import Task, get_task
from .verdicts import Verdict

_ORIENTATION = 0x0112
_LEFT_OUT = "left out"
_STRICT = "strict"


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """One item that does not count the same in every reading."""

    name: str
    """Its number, and which of its pictures if that is not the first."""
    tag: str
    counts: dict[str, str]
    """What it counts, by reading."""
    why: tuple[str, ...]
    """Reasons, those that are known."""


def explain(run: Run, items: Mapping[int, Item] | None = None) -> list[str]:
    """Return lines for people: overall under each reading, then each item that changes, and why.

    Args:
        run: Whose replies are read again.
        items: Its items by number, where a reply cannot be read without.

    Raises:
        Echo4oError: the run was judged with another wording than the authors'.
    """
    task = get_task(run.task)
    if run.protocol["name"] not in task.readings:
        raise Echo4oError(
            f"this run was judged with protocol {run.protocol['name']!r}, whose replies cannot be "
            f"read another way; --explain needs one of: {', '.join(task.readings)}"
        )
    lines = ["Readings of these replies:"]
    if run.protocol["name"] == _STRICT:
        lines = [f"These replies are JSON, as {_STRICT} asks; others may not find marks in them:"]
    read = read_all(task, run, items or {})
    for name, verdicts in read.items():
        score = task.score(verdicts, name).overall
        lines.append(f"  {name:10}{score.score:.4f} over {score.items} items")
    if task.grading is not None:
        for name in read:
            used = {group for group, one in task.grading.weights_of(name).items() if one}
            if dropped := sorted(set(task.grading.weights) - used):
                lines.append(f"  {name} gives no weight to {', '.join(dropped)}")
    found = list(differences(task, run, read))
    what = "items" if task.pictures == 1 else "pictures"
    lines.append(f"{len(found)} of {len(run.verdicts)} {what} count differently:")
    for one in found:
        counts = ", ".join(f"{name} {count}" for name, count in one.counts.items())
        lines.append(f"  {one.name} ({one.tag}): {counts}: {'; '.join(one.why) or 'see reply'}")
    return lines


def read_all(task: Task, run: Run, items: Mapping[int, Item]) -> dict[str, list[Verdict]]:
    """Return the run's verdicts as each reading has them, from the replies that it kept."""
    asker = task.readings[run.protocol["name"]]
    read = {}
    for name, protocol in task.readings.items():
        found = protocol.find(run.pictures) if run.pictures.is_dir() else None
        read[name] = [
            _read_again(one, items.get(one.number) or _bare(one), protocol, asker, found)
            for one in run.verdicts
        ]
    return read


def _bare(one: Verdict) -> Item:
    return Item(number=one.number, tag=one.tag, prompt=one.prompt)


def differences(task: Task, run: Run, read: Mapping[str, list[Verdict]]) -> Iterator[Changed]:
    """Yield the items that do not count the same in every reading, in item order."""
    for place, verdict in enumerate(run.verdicts):
        each = {name: verdicts[place] for name, verdicts in read.items()}
        counts = {
            name: _LEFT_OUT if one.is_left_out else f"{one.value:g}" for name, one in each.items()
        }
        turned = _turned(run.pictures, verdict)
        if len(set(counts.values())) == 1 and turned is None:
            continue
        why = [f"{name}: {one.reason}" for name, one in each.items() if one.reason is not None]
        yield Changed(
            name=str(verdict.number)
            if verdict.sample == 1
            else f"{verdict.number}-{verdict.sample}",
            tag=verdict.tag,
            counts=counts,
            why=tuple(why if turned is None else [*why, turned]),
        )


def _read_again(
    verdict: Verdict,
    item: Item,
    protocol: JudgeProtocol,
    asker: JudgeProtocol,
    pictures: Mapping[int, Path] | None,
) -> Verdict:
    if verdict.outcome == "missing":
        read = unasked(item, protocol, "missing", "there is no picture")
    elif verdict.outcome == "damaged":
        read = unasked(item, protocol, "damaged", "the picture does not decode")
    elif pictures is not None and verdict.picture and verdict.number not in pictures:
        read = unasked(item, protocol, "missing", f"does not look for {verdict.picture}")
    elif isinstance(protocol, SeriesProtocol) and isinstance(asker, SeriesProtocol):
        read = _series_again(verdict, item, protocol, asker)
    else:
        read = _reply_again(verdict, item, protocol)
    return replace(read, objects=verdict.objects, sample=verdict.sample, repeat=verdict.repeat)


def _reply_again(verdict: Verdict, item: Item, protocol: JudgeProtocol) -> Verdict:
    reply = Reply(
        outcome=verdict.outcome if verdict.outcome in ("refused", "failed") else "done",
        reason=verdict.reason,
        text=verdict.raw_reply,
        model=verdict.judge_model or "unknown",
    )
    case = Case(item=item, path=Path(verdict.picture or ""), protocol=protocol)
    # The reply that the run kept is its last: no reading would ask again after it.
    for _ in range(protocol.attempts):
        read = case.take(reply)
        if read is not None:
            return read
    raise AssertionError("a protocol asks no more often than it says")


def _series_again(
    verdict: Verdict, item: Item, protocol: SeriesProtocol, asker: SeriesProtocol
) -> Verdict:
    if verdict.outcome not in ("judged", "unreadable"):
        return replace(verdict, points=protocol.points(()), is_left_out=protocol.leaves_out(item))
    outcome, findings, reason = protocol.again(item, json.loads(verdict.raw_reply or "[]"), asker)
    return replace(
        verdict,
        outcome=outcome,
        findings=findings,
        correct=outcome == "judged" and bool(findings) and all(one.satisfied for one in findings),
        points=protocol.points(findings),
        is_left_out=protocol.leaves_out(item),
        reason=reason,
    )


def _turned(folder: Path, verdict: Verdict) -> str | None:
    """What to say about a picture that the strict reading shows turned."""
    if verdict.picture is None or verdict.outcome == "damaged":
        return None
    try:
        with Image.open(folder / verdict.picture) as image:
            turned = image.getexif().get(_ORIENTATION, 1)
    except OSError:
        return None
    if turned == 1:
        return None
    return f"strict shows the picture turned upright (EXIF orientation {turned}), the others do not"
