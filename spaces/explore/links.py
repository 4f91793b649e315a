"""A view of the page as the query of its address, and back: every view can be shared."""

from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

import refusals
from catalogue import View

LINK_CHARACTERS = 4_000


class RowsLink(NamedTuple):
    """The dataset tab."""

    view: View = View()
    page: int = 1
    """`at` in the address: Gradio takes `page` for pages of its own, and fails on ours."""
    row: str = ""
    """Id of the row that is open; empty: the list."""

    def __str__(self) -> str:
        view = self.view
        return _query(
            subset=view.subset,
            category=view.category,
            words=view.words,
            seed=view.seed or "",
            at=self.page if self.page > 1 else "",
            row=self.row,
        )


class BoardLink(NamedTuple):
    """The leaderboard tab."""

    run: str = ""
    """The run whose report is open; empty: the leaderboard."""
    tag: str = ""
    seen: str = ""
    page: int = 1

    def __str__(self) -> str:
        page = self.page if self.page > 1 else ""
        return _query(tab="leaderboard", run=self.run, tag=self.tag, seen=self.seen, at=page)


Link = RowsLink | BoardLink


def read(query: object) -> Link:
    """A link from an address; what is no number is a refusal, unknown parts mean nothing."""
    text = refusals.text(query, "link", LINK_CHARACTERS).lstrip("?")
    try:
        parts = dict(parse_qsl(text, max_num_fields=20))
    except ValueError as error:
        raise refusals.Refusal("The link has too many parts.") from error
    page = _number(parts.get("at"), "page", 1, refusals.MAX_PAGE, default=1)
    if parts.get("tab") == "leaderboard" or "run" in parts:
        run, tag, seen = (parts.get(name, "") for name in ("run", "tag", "seen"))
        return BoardLink(run, tag, seen, page)
    view = View(
        subset=parts.get("subset", ""),
        category=parts.get("category", ""),
        words=refusals.text(parts.get("words"), "search", refusals.WORDS_CHARACTERS),
        seed=_number(parts.get("seed"), "seed", 0, refusals.MAX_SEED, default=0),
    )
    return RowsLink(view, page, parts.get("row", ""))


def _query(**parts: object) -> str:
    given = {name: value for name, value in parts.items() if value != ""}
    return f"?{urlencode(given)}" if given else ""


def _number(value: str | None, what: str, low: int, high: int, default: int) -> int:
    if value is None:
        return default
    is_number = value.isascii() and value.isdigit() and len(value) < 12
    return refusals.whole(int(value) if is_number else value, what, low, high)
