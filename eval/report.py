"""Writes report.html: one self-contained file for one or more runs over the same items.

Everything from prompts, judges and file names is escaped by the template; pictures and charts are
inside the file. The page loads nothing and its policy forbids any script but its own.
"""

import base64
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from echo4o.errors import Echo4oError
from echo4o.records import write_atomic

from .agreement import Agreement, agreement
from .buying import read_bought
from .charts import intervals, loss_curve, read_loss
from .compared import is_same_pictures
from .intervals import Difference, Score
from .published import PUBLISHED, Published
from .report_cards import first_of_each_tag, make_cards
from .report_extras import as_tree, prompts_of, references_of
from .runs import Run, load_run
from .scores import Comparison, Scores
from .tasks import get_task
from .verdicts import OUTCOMES
from .votes import People, read_people
from .wording import SOURCES

logger = logging.getLogger(__name__)

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One line of the table of scores."""

    name: str
    note: str
    scores: list[Score | None]
    chart: Markup
    difference: Difference | None
    is_total: bool


def write_report(
    folders: Sequence[Path],
    out: Path,
    *,
    loss: Path | None = None,
    title: str | None = None,
    progress: bool = False,
) -> Path:
    """Write a report of the runs in `folders`; with several, the last is held against the first.

    Args:
        folders: Run folders, oldest first.
        out: The HTML file.
        loss: `loss.jsonl` of the training between the runs.
        title: Heading; the task's name if not given.
        progress: Show a bar on stderr.

    Raises:
        Echo4oError: a folder is no run, or the runs are of different tasks or items.
    """
    if not folders:
        raise Echo4oError("a report needs at least one run folder")
    runs = [load_run(folder) for folder in folders]
    names = _names(folders)
    if len({run.task for run in runs}) > 1:
        tasks = ", ".join(sorted({run.task for run in runs}))
        raise Echo4oError(f"these runs are of different tasks ({tasks}); report one task at a time")
    task, cards = get_task(runs[0].task), make_cards(runs, progress, references_of(folders, runs))
    comparison = None
    if len(runs) > 1:
        protocol = runs[-1].protocol["name"]
        comparison = task.compare(runs[0].verdicts, runs[-1].verdicts, protocol)
    scores = [run.scores() for run in runs]
    html = _render(
        title=title or f"{task.title} report",
        task=task.title,
        about=task.about,
        prompts=prompts_of(runs[-1]),
        names=names,
        runs=runs,
        scores=scores,
        comparison=comparison,
        rows=_rows(scores, comparison, about=bool(task.about)),
        cards=cards,
        strip=first_of_each_tag(cards),
        has_samples=any(len(group) > 1 for card in cards for group in card.shown),
        outcomes=OUTCOMES,
        warnings=_warnings(names, runs, scores),
        published=_published(runs[-1]),
        judges=_judges(runs),
        people=[_people(folder) for folder in folders],
        bought=[read_bought(run.pictures) for run in runs],
        curve=None if loss is None else loss_curve(read_loss(loss)),
    )
    # Half a character, of whatever origin, shall not cost the whole report.
    write_atomic(out, html.encode("utf-8", "replace"))
    return out


def _render(**view: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scale: float = view["scores"][0].scale
    environment.filters |= _numbers(in_points=scale != 1)
    environment.filters["tree"] = as_tree
    environment.filters["breakable"] = lambda name: escape(name).replace("_", Markup("_<wbr>"))
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    html: str = environment.get_template("report.html.jinja").render(
        **view, scale=scale, script=Markup(script), script_hash=digest, style=Markup(style)
    )
    return html


def _numbers(*, in_points: bool) -> dict[str, Callable[[float], str]]:
    """Return the template's ways to write a score, an interval's end and a difference."""
    if in_points:
        return {
            "score": lambda points: f"{points:.3f}",
            "end": lambda points: f"{points:.2f}",
            "step": lambda points: f"{points:+.2f}".replace("-", "\u2212"),
            "size": lambda points: f"{points:.2f}",
        }
    return {
        "score": lambda share: f"{100 * share:.1f} %",
        "end": lambda share: f"{100 * share:.0f}",
        "step": lambda share: f"{100 * share:+.1f}".replace("-", "\u2212"),
        "size": lambda share: f"{100 * share:.1f}",
    }


def _names(folders: Sequence[Path]) -> list[str]:
    """Return what to call the runs: their folders' names, numbered where they are alike."""
    names = [
        (folder.parent if folder.suffix == ".json" else folder).resolve().name for folder in folders
    ]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({place})" for place, name in enumerate(names, start=1)]


def _rows(scores: Sequence[Scores], comparison: Comparison | None, *, about: bool) -> list[_Row]:
    scale = scores[0].scale
    has_groups = any(one.by_group for one in scores)
    note = "weighted mean of the groups" if has_groups else "mean of the tags"
    note = "as said above" if about else note
    overall = comparison.overall if comparison else None
    rows = [_row("Overall", note, [one.overall for one in scores], overall, scale)]
    few = [one.one_or_two_objects for one in scores]
    if any(few):
        difference = comparison.one_or_two_objects if comparison else None
        note = "items that ask for at most two objects"
        rows.append(_row("One or two objects", note, few, difference, scale))
    for group in dict.fromkeys(group for one in scores for group in one.by_group):
        each = [one.by_group.get(group) for one in scores]
        difference = comparison.by_group.get(group) if comparison else None
        rows.append(_row(group, "group", each, difference, scale))
    for tag in dict.fromkeys(tag for one in scores for tag in one.by_tag):
        each = [one.by_tag.get(tag) for one in scores]
        difference = comparison.by_tag.get(tag) if comparison else None
        rows.append(_row(tag, "", each, difference, scale))
    return rows


def _row(
    name: str,
    note: str,
    scores: list[Score | None],
    difference: Difference | None,
    scale: float,
) -> _Row:
    return _Row(
        name=name,
        note=note,
        scores=scores,
        chart=intervals(scores, scale),
        difference=difference,
        is_total=bool(note),
    )


def _judges(runs: Sequence[Run]) -> tuple[Agreement, dict[str, Agreement]] | None:
    """How far the judges of the same pictures agree; None for runs of different pictures."""
    if len(runs) < 2 or not is_same_pictures(runs):
        return None
    try:
        return agreement([run.verdicts for run in runs])
    except Echo4oError:  # no picture has two verdicts
        return None


def _people(folder: Path) -> People | None:
    """What people said about a run; a run.json that lies alone has nobody beside it."""
    return None if folder.suffix == ".json" else read_people(folder)


def _published(run: Run) -> tuple[Published, ...]:
    """Others' scores, where this run has the same items and the same wording as they had."""
    source = SOURCES.get(run.task)
    has_their_items = source is not None and run.items["sha256"] == source.items_sha256
    has_their_words = run.protocol["name"] in get_task(run.task).readings
    return PUBLISHED.get(run.task, ()) if has_their_items and has_their_words else ()


def _warnings(names: Sequence[str], runs: Sequence[Run], scores: Sequence[Scores]) -> list[str]:
    warnings = []
    if len({run.judge["model"] for run in runs}) > 1:
        warnings.append("The runs were judged by different judges; differences may be theirs.")
    if len({(run.protocol["name"], run.protocol["version"]) for run in runs}) > 1:
        warnings.append("The runs were judged by different protocols; do not compare them.")
    if len({run.items["sha256"] for run in runs}) > 1:
        warnings.append("The runs come from different item files; only common items are compared.")
    for name, run, score in zip(names, runs, scores, strict=True):
        if run.drift and (run.drift["moved_now"] or run.drift["moved_over_runs"]):
            warnings.append(
                f"{name}: judge {run.judge['model']} does not judge the canary's "
                f"{run.drift['pictures']} pictures as it first did "
                f"({100 * run.drift['shift']:+.1f} % of the scale)."
            )
        if score.coverage < 1:
            silent = len(run.verdicts) - score.outcomes["judged"]
            left_out = sum(verdict.is_left_out for verdict in run.verdicts)
            is_one_each = len({one.number for one in run.verdicts}) == len(run.verdicts)
            what = "items" if is_one_each else "pictures"
            warnings.append(
                f"{name}: {silent} of {len(run.verdicts)} {what} have no readable verdict; "
                f"{left_out} of them are left out of the means, the others count as nothing or as "
                f"the protocol {run.protocol['name']} says."
            )
    return warnings
