"""HTML of the dataset tab: masthead, grid, one row, empty places. All foreign text is escaped."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from catalogue import Catalogue, Listed, View
from links import RowsLink
from pictures import Shown

TILE_CHARACTERS = 160
VALUE_CHARACTERS = 2_000
JSON_CHARACTERS = 20_000
_BROKEN = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M4 5h16v14H4z M4 16l5-5 4 4"/>'
    '<path d="M3 3l18 18"/></svg>'
)
_NAMES = {"geneval_plus_plus": "GenEval++", "imagine_bench": "Imagine-Bench"}
_DOTS = {"none": "none", "opening": "loading", "indexing": "loading", "ready": "ready"}


def words(name: str) -> str:
    """A name of the schema, or of a task, as people read it."""
    return _NAMES.get(name) or name.replace("_", " ")


def text(value: object, limit: int = VALUE_CHARACTERS) -> str:
    """Foreign text: escaped, cut, its writing direction kept to itself."""
    whole = str(value)
    return f"<bdi>{escape(whole if len(whole) <= limit else whole[: limit - 1] + '…')}</bdi>"


def address(link: object) -> str:
    """A link of this page as an attribute."""
    return escape(str(link) or "?", quote=True)


def masthead(catalogue: Catalogue) -> str:
    """Title, one sentence, and a pill: which dataset, and how far it is read."""
    name = escape(catalogue.name)
    line = {
        "none": "No dataset named",
        "opening": f"Opening {name} …",
        "indexing": f"{name} · {catalogue.indexed:,} of {catalogue.rows:,} rows read",
        "ready": f"{name} · {catalogue.indexed:,} rows",
        "failed": f"{name} cannot be opened",
    }[catalogue.state]
    dot = _DOTS.get(catalogue.state, "failed")
    return (
        '<div id="masthead"><div><h1>Echo-4o explorer</h1>'
        "<p>Look at the rows of a dataset and at how models score.</p></div>"
        f'<span id="source-line" role="status"><span class="dot {dot}"></span>{line}</span></div>'
    )


def notice(
    title: str, sentence: str, link: object = None, way_out: str = "", where: str = "?"
) -> str:
    """A designed empty place; `way_out` is a link to what there is, at `where`.

    Without `link` the page's address stays as it is.
    """
    mark = '<div class="mark" aria-hidden="true"><i></i><i></i><i></i></div>'
    out = (
        f'<a class="button" data-go href="{address(where)}">{escape(way_out)}</a>'
        if way_out
        else ""
    )
    return (
        f'<section class="stage"{_linked(link)}><div class="notice">'
        f"{mark}<strong>{escape(title)}</strong><span>{escape(sentence)}</span>{out}</div></section>"
    )


def _linked(link: object) -> str:
    return "" if link is None else f' data-link="{escape(str(link), quote=True)}"'


def picture(shown: Shown | None, alt: str, *, lazy: bool = False) -> str:
    """A picture, the place of one that is on its way (None), or why there is none."""
    if shown is None:
        return '<span class="wait" aria-hidden="true"></span>'
    if not shown.url:
        return f'<span class="broken">{_BROKEN}<em>{escape(shown.fault)}</em></span>'
    small = ' class="small"' if max(shown.width, shown.height) < 129 else ""
    size = f'width="{shown.width}" height="{shown.height}"'
    load = ' loading="lazy"' if lazy else ""
    return f'<img{small}{load} {size} src="{shown.url}" alt="{escape(alt[:300], quote=True)}">'


def grid(
    link: RowsLink, rows: Sequence[Listed], thumbs: Sequence[Shown | None], total: int, size: int
) -> str:
    """One page of rows."""
    first = (link.page - 1) * size
    head = f"Rows {first + 1:,} to {first + len(rows):,} of {total:,}"
    tiles = "".join(
        _tile(link._replace(row=row.id), row, thumb)
        for row, thumb in zip(rows, thumbs, strict=True)
    )
    order = ""
    if link.view.seed:
        plain = link._replace(view=link.view._replace(seed=0), page=1)
        order = f' · shuffled, <a data-go href="{address(plain)}">back in order</a>'
    pager = _pager(link, total, size)
    return (
        f'<section class="stage"{_linked(link)}>'
        f'<header class="line"><h2 tabindex="-1" data-focus>{head}{order}</h2>{pager}'
        f'</header><div class="grid">{tiles}</div><footer class="line">{pager}</footer></section>'
    )


def _tile(link: RowsLink, row: Listed, thumb: Shown | None) -> str:
    kind = " · ".join(words(name) for name in (row.subset, row.category) if name)
    caption = text(row.instruction, TILE_CHARACTERS)
    return (
        f'<a class="tile" data-go href="{address(link)}">'
        f'<span class="frame">{picture(thumb, "")}</span>'
        f'<span class="caption">{caption}</span><span class="kind">{escape(kind[:80])}</span></a>'
    )


def _pager(link: RowsLink, total: int, size: int) -> str:
    pages = max(1, -(-total // size))
    return pager_of(
        link.page,
        pages,
        link._replace(page=link.page - 1) if link.page > 1 else None,
        link._replace(page=link.page + 1) if link.page < pages else None,
    )


def pager_of(page: int, pages: int, before: object | None, after: object | None) -> str:
    """Links to the pages before and after."""
    if pages < 2:
        return ""
    return (
        f'<nav class="pager" aria-label="Pages">{_step("Previous", "←", before)}'
        f"<span>Page {page:,} of {pages:,}</span>{_step('Next', '→', after)}</nav>"
    )


def _step(name: str, arrow: str, link: object | None) -> str:
    if link is None:
        return f'<span class="button off" aria-hidden="true">{arrow}</span>'
    key = "before" if name == "Previous" else "after"
    return (
        f'<a class="button" data-go data-key="{key}" aria-label="{name}" title="{name}" '
        f'href="{address(link)}">{arrow}</a>'
    )


def row_page(
    link: RowsLink,
    row: Listed,
    facts: Mapping[str, object],
    target: Shown,
    references: Sequence[Shown],
    neighbours: tuple[str, str],
) -> str:
    """One row with everything that is known of it; `neighbours` are the ids beside it."""
    steps = "".join(
        _step(name, arrow, link._replace(row=other) if other else None)
        for name, arrow, other in zip(("Previous", "Next"), "←→", neighbours, strict=True)
    )
    instruction = str(facts.get("instruction") or row.instruction)
    return (
        f'<section class="stage"{_linked(link)}>'
        f'<header class="line"><a class="button" data-go data-key="up" '
        f'href="{address(link._replace(row=""))}">All rows</a>'
        f'<button type="button" class="button" data-copy>Copy link</button>'
        f'<nav class="pager" aria-label="Rows">{steps}</nav></header><div class="row-page">'
        f'<figure class="target">{picture(target, instruction)}</figure>'
        f'<div class="about"><h2 tabindex="-1" data-focus>{text(instruction, 8000)}</h2>'
        f"{_asked(facts, instruction)}{_references(references, facts.get('references'))}"
        f"{_constraints(facts.get('constraints'))}{_facts(row, facts, target)}"
        f"{_provenance(facts.get('provenance'))}</div></div></section>"
    )


def _asked(facts: Mapping[str, object], instruction: str) -> str:
    asked = facts.get("requested_instruction")
    if not asked or asked == instruction:
        return ""
    return (
        '<div class="asked"><h3>What the generator was asked</h3>'
        f"<p>{text(asked, 8000)}</p><p class='hint'>The text above was rewritten to match the "
        "picture.</p></div>"
    )


def _references(pictures: Sequence[Shown], register: object) -> str:
    if not pictures:
        return ""
    entries = register if isinstance(register, list) else []
    figures = []
    for place, shown in enumerate(pictures, 1):
        entry = entries[place - 1] if place <= len(entries) else None
        about = _entry(entry) if isinstance(entry, dict) else ""
        name = f"Image {place}"
        shown_picture = picture(shown, f"Reference {place} of {len(pictures)}")
        figures.append(
            f'<figure><span class="frame">{shown_picture}</span>'
            f"<figcaption><b>{name}</b>{about}</figcaption></figure>"
        )
    return (
        f'<h3>References, in the order of the text</h3><div class="references">{"".join(figures)}'
        "</div>"
    )


def _entry(entry: Mapping[str, object]) -> str:
    """What the register says of a reference."""
    parts = [
        text(entry[name], 120)
        for name in ("source", "licence", "license", "attribution")
        if entry.get(name)
    ]
    if entry.get("depicts_person"):
        parts.append(f"shows a person, consent: {text(entry.get('consent') or 'not stated', 60)}")
    return "".join(f"<span>{part}</span>" for part in parts)


def _constraints(value: object) -> str:
    if not value:
        return ""
    if not isinstance(value, dict):
        return f"<h3>Constraints</h3>{_json(value)}"
    chips = []
    for side, mark in (("include", ""), ("exclude", "no ")):
        entries = value.get(side)
        for one in entries if isinstance(entries, list) else []:
            chips.append(f'<li class="{side}">{mark}{text(_chip(one), 120)}</li>')
    rest = {name: part for name, part in value.items() if name not in ("include", "exclude", "tag")}
    shown = f'<ul class="chips">{"".join(chips[:40])}</ul>' if chips else ""
    return f"<h3>Constraints</h3>{shown}{_json(rest) if rest else ''}"


def _chip(entry: object) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    count = entry.get("count")
    parts = [f"{count} ×" if count not in (None, 1) else ""]
    parts += [str(entry[name]) for name in ("size", "color", "class") if entry.get(name)]
    region = f", {entry['region']}" if entry.get("region") else ""
    others = set(entry) - {"class", "count", "color", "size", "region"}
    more = "".join(f", {words(name)}: {entry[name]}" for name in sorted(map(str, others)))
    return " ".join(filter(None, parts)) + region + more


def _facts(row: Listed, facts: Mapping[str, object], target: Shown) -> str:
    width, height = facts.get("width") or target.width, facts.get("height") or target.height
    kind = " / ".join(words(name) for name in (row.subset, row.category) if name)
    rows = [
        ("Row", row.id),
        ("Kind", kind),
        ("Split", facts.get("split")),
        ("Size", f"{width} × {height} px" if width and height else None),
        ("Generator", facts.get("generator")),
        ("Licence", facts.get("license") or "not stated"),
    ]
    return f"<h3>Facts</h3>{_table((name, text(value, 300)) for name, value in rows if value)}"


def _provenance(value: object) -> str:
    if not value:
        return "<h3>Provenance</h3><p class='hint'>This row carries none.</p>"
    lines = [(words(name), text(one, 300)) for name, one in _flat(value)][:40]
    whole = f"<details><summary>As JSON</summary>{_json(value)}</details>"
    return f"<h3>Provenance</h3>{_table(lines)}{whole}"


def _flat(value: object, before: str = "") -> Iterator[tuple[str, object]]:
    """Leaves of nested JSON, two levels deep; what lies deeper stays in the JSON below."""
    pairs = value.items() if isinstance(value, dict) else [("value", value)]
    for name, one in pairs:
        if isinstance(one, dict) and before.count(" · ") < 1:
            yield from _flat(one, f"{before}{name} · ")
        elif isinstance(one, list) and one:
            yield f"{before}{name}", ", ".join(str(part)[:80] for part in one[:12])
        elif one not in (None, "", [], {}):
            yield f"{before}{name}", one


def _table(lines: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<dt>{escape(str(name)[:80])}</dt><dd>{value}</dd>" for name, value in lines)
    return f"<dl>{cells}</dl>"


def _json(value: object) -> str:
    shown = json.dumps(value, indent=1, ensure_ascii=False)[:JSON_CHARACTERS]
    return f'<pre tabindex="0">{escape(shown)}</pre>'


def view_words(view: View) -> str:
    """What a view looks for, in a sentence's words."""
    parts = [f"“{view.words}”"] if view.words else []
    parts += [words(name) for name in (view.subset, view.category) if name]
    return " in ".join(parts) or "this view"
