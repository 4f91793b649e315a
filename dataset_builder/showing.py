"""Shows a dataset to people: tables and rows, in the terminal or as one self-contained page.

Instructions are foreign text: on the page they are escaped and nothing may run; in the terminal
whatever is not printable is left out.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from echo4o.errors import printable
from echo4o.pictures import PictureError
from echo4o.records import JsonValue, write_atomic
from echo4o.schema import Row

from .thumbnails import shrunk_jpeg

_TARGET_SIDE, _REFERENCE_SIDE = 320, 120
_WIDEST = 100


class Table(NamedTuple):
    """Numbers with a heading."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Badge(NamedTuple):
    """A short remark on a row; `kind` is good, bad, made or nothing."""

    text: str
    kind: str = ""


def tables(told: Mapping[str, Any]) -> Iterator[Table]:
    """The numbers of `data stats` as tables."""
    yield Table(
        "Rows",
        ("subset / category", "rows"),
        [
            *((name, f"{count:,}") for name, count in told["by_subset"].items()),
            *(
                (f"{subset} / {name}", f"{count:,}")
                for subset, counts in told["by_category"].items()
                for name, count in counts.items()
            ),
        ],
    )
    quality = told["quality"]
    if quality["aligned"]["all"]["checked"]:
        yield Table(
            "Pictures that follow their text",
            ("subset", "checked", "as asked", "rewritten", "now"),
            [
                (
                    name,
                    f"{one['checked']:,}",
                    _percent(one["before"]),
                    f"{one['rewritten']:,}",
                    _percent(one["after"]),
                )
                for name, one in quality["aligned"].items()
            ],
        )
    if plain := told.get("plain_backgrounds"):
        rows = [
            (name, f"{one['looked_at']:,}", _percent(one["share"])) for name, one in plain.items()
        ]
        yield Table("Plain backgrounds", ("subset", "looked at", "plain"), rows)
    if quality["combinations"]:
        yield Table(
            "Combinations in instruction following",
            ("facts", "possible", "covered", "median", "most"),
            [
                (name, *(f"{one[key]:,}" for key in ("possible", "covered", "median", "most")))
                for name, one in quality["combinations"].items()
            ],
        )
    if every := told.get("every_picture"):
        looked = [(name.replace("_", " "), f"{count:,}") for name, count in every.items()]
        yield Table("Every picture", ("what", "rows"), looked)
    yield from _captions(told.get("captions"))
    yield from _bought(told.get("bought"))
    yield Table("Pictures", ("size", "rows"), _counts(told["by_size"]))
    yield Table("Generators", ("model", "rows"), _counts(told["by_generator"]))
    yield Table(
        "Marked",
        ("what", "rows"),
        [
            ("near-duplicates", f"{quality['near_duplicates']:,}"),
            (
                "text differs from what the generator was asked",
                f"{told['instructions']['rewritten']:,}",
            ),
            *((f"credentials: {k}", f"{n:,}") for k, n in quality["content_credentials"].items()),
        ],
    )


def _captions(told: Mapping[str, Any] | None) -> Iterator[Table]:
    if told is None:
        return
    yield Table(
        f"Against {told['captions']:,} real captions",
        ("facts", "possible", "rare there", "of these covered here"),
        [
            (
                name,
                f"{one['possible']:,}",
                f"{one['rare_in_captions']:,}",
                f"{one['rare_covered']:,} ({_percent(one['share_of_rare_covered'])})",
            )
            for name, one in told.items()
            if isinstance(one, dict)
        ],
    )


def _bought(told: Mapping[str, Any] | None) -> Iterator[Table]:
    if told is None:
        return
    yield Table(
        "Bought",
        ("what", ""),
        [
            *((name, f"{count:,}") for name, count in told["calls"].items()),
            *((f"refused: {name}", f"{count:,}") for name, count in told["refusals"].items()),
            ("refused share", _percent(told["refused_share"])),
            ("attempts", f"{told['attempts']:,}"),
            ("USD in all", f"{told['spent_usd']:,.4f}"),
            ("USD for each picture", str(told["usd_for_each_picture"])),
        ],
    )


def badges(row: Row) -> Iterator[Badge]:
    """What is worth knowing about a row at a glance."""
    yield Badge(f"{row.subset} / {row.category or row.type or 'unknown'}")
    yield Badge(f"{row.width} x {row.height}")
    if row.generator:
        yield Badge(row.generator)
    found = row.provenance.get("check")
    if isinstance(found, dict):
        is_rewritten = found.get("decision") == "rewrite"
        follows = found.get("aligned_after" if is_rewritten else "aligned")
        if is_rewritten:
            yield Badge("text rewritten", "made")
        if follows is not None:
            yield Badge("follows its text", "good") if follows else Badge("differs", "bad")
        if found.get("duplicate_of"):
            yield Badge(f"near-duplicate of {found['duplicate_of']}", "bad")
    signed = row.provenance.get("content_credentials")
    if isinstance(signed, dict) and signed.get("present"):
        yield Badge(f"content credentials: {signed.get('issuer') or 'unknown'}", "made")


def write_page(path: Path, title: str, told: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """Write the numbers and the rows as one HTML file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    page = environment.get_template("show.html.jinja").render(
        title=title,
        subtitle=f"{told['rows']:,} rows",
        tables=list(tables(told)),
        rows=[_card(row) for row in rows],
    )
    write_atomic(path, page + "\n")


def _card(row: Row) -> dict[str, object]:
    return {
        "id": row.id,
        "instruction": row.instruction,
        "asked": row.requested_instruction,
        "badges": list(badges(row)),
        "picture": _shown(row.output_image.data, _TARGET_SIDE),
        "references": [_shown(one.data, _REFERENCE_SIDE) for one in row.input_images],
    }


def _shown(data: bytes, side: int) -> str:
    try:
        return base64.b64encode(shrunk_jpeg(data, side, 82)[0]).decode()
    except PictureError:
        return ""


def lines(told: Mapping[str, Any], rows: Iterable[Row]) -> Iterator[str]:
    """The same for the terminal."""
    for table in tables(told):
        yield from ("", table.title)
        widths = [
            max(len(_plain(str(one[column]))) for one in [table.columns, *table.rows])
            for column in range(len(table.columns))
        ]
        for texts in (table.columns, *table.rows):
            cells = [_plain(str(cell)) for cell in texts]
            rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
            yield "  " + "  ".join([cells[0].ljust(widths[0]), *rest])
    for row in rows:
        yield from ("", _plain(row.id), f"  {_plain(row.instruction)}")
        if row.requested_instruction:
            yield f"  asked: {_plain(row.requested_instruction)}"
        yield "  " + ", ".join(_plain(badge.text) for badge in badges(row))
        for name, value in (("constraints", row.constraints), ("references", row.references)):
            if value:
                yield f"  {name}: {_plain(json.dumps(value, ensure_ascii=False), 10 * _WIDEST)}"


def _plain(text: str, longest: int = 4 * _WIDEST) -> str:
    """One printable line; an escape sequence must not reach the terminal."""
    line = printable(text)
    return line if len(line) <= longest else line[: longest - 3] + "..."


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _counts(counts: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
    return [(name, f"{count:,}") for name, count in counts.items()]
