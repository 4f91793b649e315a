"""A table of two runs of one task, before and after, with what others published beside it."""

from collections.abc import Sequence
from pathlib import Path

from echo4o.errors import Echo4oError

from .intervals import Difference, Score
from .published import PUBLISHED
from .runs import Run, load_run
from .tasks import Task, get_task


def before_after(before: Path, after: Path) -> str:
    """Return Markdown: a row per part with both scores and their difference, then the literature.

    Raises:
        Echo4oError: the runs are of different tasks, or without a common item.
    """
    first, last = load_run(before), load_run(after)
    if first.task != last.task:
        raise Echo4oError(
            f"these runs are of different tasks ({first.task}, {last.task}); compare one at a time"
        )
    task = get_task(first.task)
    changed = task.compare(first.verdicts, last.verdicts, last.protocol["name"])
    old, new = (task.score(run.verdicts, run.protocol["name"]) for run in (first, last))
    lines = [
        f"### {task.title}",
        "",
        *_facts(first, last),
        "",
        f"| | {_name(first, before)} | {_name(last, after)} | difference | items |",
        "|---|---|---|---|---:|",
        _row("**overall**", old.overall, new.overall, changed.overall, task),
    ]
    for kind in ("by_group", "by_tag"):
        for name, difference in getattr(changed, kind).items():
            pair = getattr(old, kind).get(name), getattr(new, kind).get(name)
            lines.append(_row(name, *pair, difference, task))
    return "\n".join([*lines, "", *_literature(task), ""])


def _facts(first: Run, last: Run) -> Sequence[str]:
    said = [f"Scores with 95 % intervals; judge {first.judge['model']}."]
    for what in ("judge", "protocol", "items"):
        if getattr(first, what) != getattr(last, what):
            said.append(f"**The runs differ in their {what}: not comparable.**")
    return said


def _name(run: Run, folder: Path) -> str:
    model = (run.generation or {}).get("model")
    found = model.get("id") if isinstance(model, dict) else model
    return str(found or folder.name)


def _row(name: str, old: Score | None, new: Score | None, change: Difference, task: Task) -> str:
    scale = 1.0 if task.grading is None else task.grading.scale
    cells = [_score(one, scale) for one in (old, new)]
    moved = f"{_plain(change.difference, scale, sign=True)} {_ends(change.low, change.high, scale)}"
    clear = f"**{moved}**" if change.is_clear else moved
    return f"| {name} | {cells[0]} | {cells[1]} | {clear} | {change.items} |"


def _score(score: Score | None, scale: float) -> str:
    if score is None:
        return "-"
    return f"{_plain(score.score, scale)} {_ends(score.low, score.high, scale)}"


def _ends(low: float, high: float, scale: float) -> str:
    return f"[{_plain(low, scale)}, {_plain(high, scale)}]"


def _plain(value: float, scale: float, *, sign: bool = False) -> str:
    shown = 100 * value if scale == 1 else value
    digits = 1 if scale == 1 else 2
    return f"{shown:+.{digits}f}" if sign else f"{shown:.{digits}f}"


def _literature(task: Task) -> Sequence[str]:
    rows = PUBLISHED.get(task.name, ())
    if not rows:
        return ()
    scale = 1.0 if task.grading is None else task.grading.scale
    return [
        "What others published - theirs, not measured here, with other judges and settings:",
        "",
        "| model | overall | source |",
        "|---|---:|---|",
        *(f"| {one.model} | {_plain(one.overall, scale)} | {one.source} |" for one in rows),
    ]
