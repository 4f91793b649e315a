"""Two or more runs held against each other in words: which is better, and do the judges agree?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from echo4o.errors import Echo4oError

from .agreement import Agreement, agreement
from .intervals import Difference
from .runs import Run, load_run
from .scores import Comparison
from .tasks import get_task


def compare_runs(folders: Sequence[Path]) -> list[str]:
    """Return lines for people: the last run against the first, and what several judges agree on.

    Raises:
        Echo4oError: fewer than two runs, of different tasks, or without a common item.
    """
    if len(folders) < 2:
        raise Echo4oError("a comparison needs at least two run folders")
    runs = [load_run(folder) for folder in folders]
    if len({run.task for run in runs}) > 1:
        tasks = ", ".join(sorted({run.task for run in runs}))
        raise Echo4oError(
            f"these runs are of different tasks ({tasks}); compare one task at a time"
        )
    first, last = runs[0], runs[-1]
    if is_same_pictures(runs):
        return _judges(runs, folders)
    task = get_task(first.task)
    scale = 1.0 if task.grading is None else task.grading.scale
    found = task.compare(first.verdicts, last.verdicts, last.protocol["name"])
    lines = _warnings(runs)
    lines.append(_sentence(found.overall, folders[-1].name, folders[0].name, scale))
    lines += [
        f"  {name:26}{_points(one.difference, scale):>7}  "
        f"[{_points(one.low, scale)}, {_points(one.high, scale)}]  {one.items:4d} items"
        for name, one in _parts(found).items()
    ]
    smallest = _points(found.smallest_clear, scale).lstrip("+")
    lines.append(f"Over different items, {smallest} points would be needed (80 % power).")
    return lines


def is_same_pictures(runs: Sequence[Run]) -> bool:
    """Whether several judges, or one of them several times, looked at the same files."""
    shown = [
        {(one.number, one.sample): one.picture_sha256 for one in run.verdicts if one.picture_sha256}
        for run in runs
    ]
    common = set.intersection(*(set(one) for one in shown))
    return bool(common) and all(len({one[place] for one in shown}) == 1 for place in common)


def _judges(runs: Sequence[Run], folders: Sequence[Path]) -> list[str]:
    names = ", ".join(
        f"{run.judge['model']} ({path.name})" for run, path in zip(runs, folders, strict=True)
    )
    overall, by_tag = agreement([run.verdicts for run in runs])
    lines = [f"The same pictures, judged by {names}.", "Krippendorff's alpha:"]
    return lines + agreement_lines(overall, by_tag)


def agreement_lines(overall: Agreement, by_tag: Mapping[str, Agreement]) -> list[str]:
    """Return one line for people for all items together and one per tag."""
    return [
        f"  {name:26}{_alpha(one)}  {one.items:4d} pictures"
        for name, one in {"overall": overall, **by_tag}.items()
    ]


def _alpha(one: Agreement) -> str:
    if one.alpha is None or one.low is None or one.high is None:
        return "all verdicts are the same"
    return f"{one.alpha:7.3f}  [{one.low:.2f}, {one.high:.2f}]"


def _warnings(runs: Sequence[Run]) -> list[str]:
    """Say what keeps the scores of runs apart."""
    protocols = {f"{run.protocol['name']} {run.protocol['version']}" for run in runs}
    judges = {str(run.judge["model"]) for run in runs}
    return [
        f"Judged by different {what} ({', '.join(sorted(names))}): not comparable."
        for what, names in (("protocols", protocols), ("judges", judges))
        if len(names) > 1
    ]


def _parts(found: Comparison) -> dict[str, Difference]:
    few = found.one_or_two_objects
    extra = {} if few is None else {"one or two objects": few}
    return {**extra, **found.by_group, **found.by_tag}


def _sentence(found: Difference, last: str, first: str, scale: float) -> str:
    interval = f"95 % {_points(found.low, scale)} to {_points(found.high, scale)}"
    if not found.is_clear:
        return (
            f"{last} and {first} cannot be told apart: {_points(found.difference, scale)} points, "
            f"{interval}, {found.items} items."
        )
    word = "better" if found.difference > 0 else "worse"
    size = _points(abs(found.difference), scale).lstrip("+")
    return f"{last} is {word} than {first} by {size} points, {interval}, {found.items} items."


def _points(difference: float, scale: float) -> str:
    """A share in points of 100, or points as they are."""
    return f"{100 * difference:+.1f}" if scale == 1 else f"{difference:+.2f}"
