"""HTML of the leaderboard tab: all runs with intervals, and the report of one run."""

from collections.abc import Sequence
from html import escape

from links import BoardLink
from markup import address, pager_of, picture, text, words
from pictures import Shown
from results import Line, Run, Tag, Verdict

SEEN = {"right": "Right", "wrong": "Wrong", "marked": "Marked", "unjudged": "Not judged"}
_CURRENT = ' aria-current="true"'


def leaderboard(runs: Sequence[Run], left_out: int) -> str:
    """Every run; those of one task, protocol and judge are comparable and stand together."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.task, run.protocol, run.judge), []).append(run)
    tables = "".join(_group(*key, group) for key, group in groups.items())
    note = f"<p class='hint'>{left_out} runs could not be read.</p>" if left_out else ""
    return (
        f'<section class="stage" data-link="{address(BoardLink())}"><header class="line">'
        '<h2 tabindex="-1" data-focus>Leaderboard</h2></header>'
        "<p class='hint'>Scores compare only within one task, protocol and judge. Bars are 95 % "
        f"intervals: where they overlap, the order may be chance.</p>{tables}{note}</section>"
    )


def _group(task: str, protocol: str, judge: str, runs: Sequence[Run]) -> str:
    rows = "".join(_run(place, run) for place, run in enumerate(runs, 1))
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("", "Model", "Score", "95 % interval", "Judge", "Protocol", "Items", "When")
    )
    return (
        f'<h3 class="group"><bdi>{escape(words(task))}</bdi></h3><div class="scroll" tabindex="0" '
        f'role="region" aria-label="Runs of {escape(words(task), quote=True)}, {escape(protocol)}, '
        f'judge {escape(judge, quote=True)}"><table class="runs"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _run(place: int, run: Run) -> str:
    revision = f'<small title="revision">{escape(run.revision[:8])}</small>' if run.revision else ""
    answered = f"<small>answered as {text(run.answered_as, 60)}</small>" if run.answered_as else ""
    partial = ""
    if run.coverage is not None and run.coverage < 1:
        partial = f"<small>{100 * run.coverage:.1f} % readable</small>"
    cells = [
        ("Place", f"{place}"),
        (
            "Model",
            f'<a data-go href="{address(BoardLink(run.name))}">{text(run.model, 80)}</a>{revision}',
        ),
        ("Score", f"<b>{number(run.overall, run.scale)}</b>"),
        ("95 % interval", bar(run.overall, run.low, run.high, run.scale)),
        ("Judge", f"{text(run.judge, 60)}{answered}"),
        ("Protocol", text(run.protocol, 40)),
        ("Items", f"{run.items:,} of {run.available:,}{partial}"),
        ("When", text(run.started[:10], 10)),
    ]
    shown = (f'<td data-name="{name}">{value}</td>' for name, value in cells)
    return f"<tr>{''.join(shown)}</tr>"


def number(value: float, scale: float) -> str:
    """A share in percent, points as they are."""
    return f"{100 * value:.1f} %" if scale == 1 else f"{value:.2f}"


def bar(score: float, low: float, high: float, scale: float) -> str:
    """An interval as a bar on the whole scale, and in numbers."""
    left, right, middle = (100 * min(max(one / scale, 0), 1) for one in (low, high, score))
    words_ = f"{number(low, scale)} to {number(high, scale)}"
    return (
        f'<span class="bar" aria-hidden="true"><i style="left:{left:.1f}%;width:'
        f'{max(right - left, 0.8):.1f}%"></i><b style="left:{middle:.1f}%"></b></span>'
        f'<span class="ends">{words_}</span>'
    )


def report(
    link: BoardLink,
    run: Run,
    verdicts: Sequence[Verdict],
    pictures: Sequence[Shown | None],
    total: int,
    size: int,
) -> str:
    """A run: its scores per tag, and one page of its verdicts."""
    pages = max(1, -(-total // size))
    pager = pager_of(
        link.page,
        pages,
        link._replace(page=link.page - 1) if link.page > 1 else None,
        link._replace(page=link.page + 1) if link.page < pages else None,
    )
    cards = "".join(_card(one, shown) for one, shown in zip(verdicts, pictures, strict=True))
    found = f"{total:,} picture{'s' * (total != 1)}"
    nothing = "" if total else '<p class="hint">This run keeps no verdict of that kind.</p>'
    return (
        f'<section class="stage" data-link="{address(link)}"><header class="line">'
        f'<a class="button" data-go data-key="up" href="{address(BoardLink())}">All runs</a>'
        '<button type="button" class="button" data-copy>Copy link</button></header>'
        f'<div class="summary"><h2 tabindex="-1" data-focus>{text(run.model, 120)}</h2>'
        f"<p><b>{number(run.overall, run.scale)}</b> "
        f"{bar(run.overall, run.low, run.high, run.scale)}</p>"
        f"<p class='hint'>{_settings(run)}</p></div>{_tags(link, run)}"
        f'<div class="line">{_filters(link, run)}</div>'
        f'<header class="line"><h3>{found}</h3>{pager}</header>{nothing}'
        f'<div class="cards">{cards}</div><footer class="line">{pager}</footer></section>'
    )


def _settings(run: Run) -> str:
    parts = [
        f"{text(words(run.task), 60)}",
        f"judge {text(run.judge, 60)}"
        + (f" (answered as {text(run.answered_as, 60)})" if run.answered_as else ""),
        f"protocol {text(run.protocol, 40)}",
        f"{run.items:,} of {run.available:,} items",
    ]
    parts += [f"revision {text(run.revision, 40)}"] if run.revision else []
    parts += [f"${run.cost_usd:,.2f} for the judge"] if run.cost_usd else []
    parts += [text(run.started[:10], 10)] if run.started else []
    return " · ".join(parts)


def _tags(link: BoardLink, run: Run) -> str:
    if not run.tags:
        return ""
    rows = "".join(_tag(link, run, tag) for tag in run.tags)
    return (
        '<div class="scroll"><table class="tags"><thead><tr><th scope="col">Tag</th>'
        '<th scope="col">Score</th><th scope="col">95 % interval</th>'
        '<th scope="col">Items</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _tag(link: BoardLink, run: Run, tag: Tag) -> str:
    is_chosen = tag.name == link.tag
    there = link._replace(tag="" if is_chosen else tag.name, page=1)
    current = _CURRENT if is_chosen else ""
    return (
        f'<tr><td><a data-go{current} href="{address(there)}">{text(words(tag.name), 60)}</a></td>'
        f"<td>{number(tag.score, run.scale)}</td>"
        f"<td>{bar(tag.score, tag.low, tag.high, run.scale)}</td><td>{tag.items:,}</td></tr>"
    )


def _filters(link: BoardLink, run: Run) -> str:
    kinds = ("right", "wrong", "unjudged") if run.scale == 1 else ("marked", "unjudged")
    chips = [("", "All"), *((kind, SEEN[kind]) for kind in kinds)]
    shown = "".join(
        f'<a class="chip" data-go{_CURRENT if link.seen == kind else ""} '
        f'href="{address(link._replace(seen=kind, page=1))}">{name}</a>'
        for kind, name in chips
    )
    tag = ""
    if link.tag:
        every = address(link._replace(tag="", page=1))
        tag = f'<a class="chip" data-go{_CURRENT} href="{every}">'
        tag += f"{text(words(link.tag), 60)} ✕</a>"
    return f'<nav class="filters" aria-label="Which pictures">{shown}{tag}</nav>'


def _card(verdict: Verdict, shown: Shown | None) -> str:
    prompt = verdict.prompt or "The text is left out: its licence is not stated."
    several = f", picture {verdict.sample}" if verdict.sample > 1 else ""
    points = "" if verdict.points is None else f": {verdict.points:g} points"
    name = SEEN[verdict.seen] if verdict.seen != "unjudged" else words(verdict.outcome).capitalize()
    lines = "".join(_line(one) for one in verdict.lines)
    reason = f'<p class="hint">{text(verdict.reason, 600)}</p>' if verdict.reason else ""
    raw = ""
    if verdict.raw_reply:
        raw = f"<details><summary>Reply of {text(verdict.judge or 'the judge', 60)}</summary>"
        raw += f'<pre tabindex="0">{escape(verdict.raw_reply)}</pre></details>'
    return (
        f'<article class="card {verdict.seen}"><span class="frame">{picture(shown, prompt)}</span>'
        f'<div><p class="verdict"><span class="mark-{verdict.seen}">{escape(name)}{points}</span>'
        f"<small>{text(words(verdict.tag), 60)} · item {verdict.number}{several}</small></p>"
        f"<p>{text(prompt, 600)}</p><ul>{lines}</ul>{reason}{raw}</div></article>"
    )


def _line(line: Line) -> str:
    sign, name = ("✓", "yes") if line.satisfied else ("✕", "no")
    points = "" if line.points is None else f" ({line.points:g})"
    said = f" — {text(line.said, 300)}" if line.said else ""
    return (
        f'<li class="{name}"><span role="img" aria-label="{name}">{sign}</span> '
        f"{text(line.asked, 300)}{points}{said}</li>"
    )
