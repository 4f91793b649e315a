"""The explorer: a dataset's rows, and how models score, on one page and as endpoints.

Only layout and events. A view of the page is its link: clicks, filters and shared addresses all
come down to one, and the page's address follows. Uploaded exactly as it stands.
"""

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import api
import board
import gradio as gr
import links
import markup
from api import catalogue, results
from catalogue import View
from links import BoardLink, Link, RowsLink
from refusals import MAX_SEED, Refusal
from theme import STYLE, THEME
from visitors import Turns, guarded

Widget = TypeVar("Widget", bound=gr.components.Component)
Updates = Iterator[dict[gr.components.Component, object]]
SCRIPT = Path(__file__).with_name("page.js").read_text()
WAITING_VISITORS = 128
AT_ONCE = 8
ROWS, BOARD = "rows", "leaderboard"
"""Ids of the tabs."""

turns = Turns[Link]()
catalogue.start()
results.start()


def show_rows(link: RowsLink) -> Iterator[str]:
    """The dataset tab of a link: at once with empty frames, then with pictures."""
    try:
        link = link._replace(view=api.checked(link.view))
        yield from show_row(link) if link.row else show_grid(link)
    except Refusal as refusal:
        if catalogue.state in ("none", "failed"):
            yield markup.notice("Nothing to look at yet", str(refusal), link)
        else:
            yield markup.notice("Not here", str(refusal), link, "Show all rows")


def show_grid(link: RowsLink) -> Iterator[str]:
    """One page of the list."""
    total = catalogue.total(link.view)
    if not total:
        what = f"There is nothing for {markup.view_words(link.view)}."
        if catalogue.state != "ready":
            what = f"{catalogue.indexed:,} rows are read so far; this page goes on by itself."
        yield markup.notice("No such row", what, link, "Show all rows")
        return
    page, _ = api.page_of(link.page, total, api.PAGE)
    link = link._replace(page=page)
    found = catalogue.page(link.view, (page - 1) * api.PAGE, api.PAGE)
    yield markup.grid(link, found, [None] * len(found), total, api.PAGE)
    yield markup.grid(link, found, api.thumbs([one.place for one in found]), total, api.PAGE)


def show_row(link: RowsLink) -> Iterator[str]:
    """One row, and the ids beside it in its list."""
    found = api.find_row(link.row)
    before = after = ""
    position = catalogue.position(link.view, found.place)
    if position is not None:
        around = catalogue.page(link.view, max(position - 1, 0), 3)
        before = around[0].id if position else ""
        beyond = around[2 if position else 1 :]
        after = beyond[0].id if beyond else ""
        link = link._replace(page=position // api.PAGE + 1)
    target, references = api.row_pictures(found.place)
    facts = catalogue.facts(found.place)
    yield markup.row_page(link, found, facts, target, references, (before, after))


def show_board(link: BoardLink) -> Iterator[str]:
    """The leaderboard tab of a link."""
    try:
        api.require_results()
        if not link.run:
            yield board.leaderboard(results.runs(), results.left_out)
            return
        run = api.find_run(link.run)
        sought = api.verdicts_of(run, link.tag, link.seen)
        page, _ = api.page_of(link.page, len(sought), api.CARDS)
        link = link._replace(page=page)
        shown = sought[(page - 1) * api.CARDS : page * api.CARDS]
        yield board.report(link, run, shown, [None] * len(shown), len(sought), api.CARDS)
        pictures = api.judged_pictures(run.name, shown)
        yield board.report(link, run, shown, pictures, len(sought), api.CARDS)
    except Refusal as refusal:
        is_empty = results.state in ("none", "failed")
        title = "No scores to show yet" if is_empty else "Not here"
        out = "" if is_empty else "Show all runs"
        yield markup.notice(title, str(refusal), link, out, str(BoardLink()))


def choices(view: View) -> tuple[dict[str, object], dict[str, object]]:
    """The two filters with what there is to choose, and what is chosen."""
    subset = view.subset if view.subset in catalogue.subsets() else ""
    category = view.category if view.category in catalogue.categories(subset) else ""
    subsets = [(f"All ({catalogue.count():,})", "")]
    subsets += [
        (f"{markup.words(name)} ({catalogue.count(name):,})", name) for name in catalogue.subsets()
    ]
    categories = [("All", "")]
    categories += [
        (f"{markup.words(name)} ({catalogue.count(subset, name):,})", name)
        for name in catalogue.categories(subset)
    ]
    return (
        gr.update(choices=subsets, value=subset),
        gr.update(choices=categories, value=category),
    )


def raw(widget: Widget) -> Widget:
    """Hand over what was sent as it is: its check is ours."""
    widget.preprocess = lambda payload: payload
    return widget


def build() -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="Echo-4o explorer") as page:
        top = gr.HTML(markup.masthead(catalogue), apply_default_css=False)
        with gr.Tabs() as tabs:
            with gr.Tab("Dataset", id=ROWS):
                with gr.Row(elem_classes="filters-row", visible=catalogue.state != "none"):
                    subset = raw(gr.Dropdown([], label="Subset", min_width=190, scale=3))
                    category = raw(gr.Dropdown([], label="Category", min_width=190, scale=3))
                    words = raw(
                        gr.Textbox(
                            label="Search",
                            placeholder='Words, "a phrase", or a row\'s id',
                            max_lines=1,
                            min_width=220,
                            scale=5,
                        )
                    )
                    search = gr.Button("Search", variant="primary", min_width=110, scale=1)
                    shuffle = gr.Button("Shuffle", min_width=110, scale=1)
                rows_stage = gr.HTML(
                    markup.notice("One moment", "The rows are on their way."),
                    js_on_load=SCRIPT,
                    apply_default_css=False,
                    elem_id="rows-stage",
                )
            with gr.Tab("Leaderboard", id=BOARD):
                board_stage = gr.HTML(
                    markup.notice("One moment", "The scores are on their way."),
                    js_on_load=SCRIPT,
                    apply_default_css=False,
                    elem_id="board-stage",
                )
        address = raw(gr.Textbox(visible=False))
        timer = gr.Timer(1, active=False)
        everything = [top, tabs, subset, category, words, rows_stage, board_stage, timer]

        safe = guarded({top: gr.skip()})

        def show(link: Link, visitor: str | None) -> Updates:
            """Fill the tab of a link, until the visitor asks for something else there."""
            if isinstance(link, BoardLink):
                yield from turns.newest(visitor, BOARD, link, board_updates(link))
            else:
                yield from turns.newest(visitor, ROWS, link, rows_updates(link))

        def board_updates(link: BoardLink) -> Updates:
            for html in show_board(link):
                yield {board_stage: html}

        def rows_updates(link: RowsLink) -> Updates:
            for place, html in enumerate(show_rows(link)):
                # The filters once: by the time of the pictures somebody may have chosen again.
                known = {} if place else zip((subset, category), choices(link.view), strict=True)
                yield {rows_stage: html, **dict(known)}

        def follow(link: Link, visitor: str | None, no_words: object = "") -> Updates:
            """Show a link, with its tab in front and its words in their field."""
            if isinstance(link, BoardLink):
                yield {tabs: gr.Tabs(selected=BOARD)}
                yield from show(link, visitor)
                return
            front = {tabs: gr.Tabs(selected=ROWS), words: link.view.words or no_words}
            for changed in show(link, visitor):
                yield {**changed, **front}
                front = {}

        def read(query: object) -> Link | str:
            try:
                return links.read(query)
            except Refusal as refusal:
                return markup.notice("Not here", str(refusal), None, "Show all rows")

        @safe
        def open_page(query: object, request: gr.Request) -> Updates:
            """The view that the page's address names; then the other tab."""
            link, visitor = read(query), request.session_hash
            is_reading = catalogue.state in ("opening", "indexing")
            yield {top: markup.masthead(catalogue), timer: gr.Timer(active=is_reading)}
            if isinstance(link, str):
                yield {rows_stage: link}
                link = RowsLink()
            else:
                # Somebody may be typing already.
                yield from follow(link, visitor, gr.skip())
            yield {top: markup.masthead(catalogue)}
            other, tab = (RowsLink(), ROWS) if isinstance(link, BoardLink) else (BoardLink(), BOARD)
            if turns.last(visitor, tab) is None:
                yield from show(other, visitor)

        @safe
        def on_click(event: gr.EventData, request: gr.Request) -> Updates:
            """A link that was clicked, or the way back."""
            asked = event._data.get("link") if isinstance(event._data, Mapping) else None
            link = read(asked)
            if isinstance(link, str):
                yield {rows_stage: link}
            else:
                yield from follow(link, request.session_hash)

        @safe
        def on_filter(
            subset_: object, category_: object, words_: object, request: gr.Request
        ) -> Updates:
            """The list that the filters describe; a category of another subset is let go."""
            yield from filtered(subset_, category_, words_, 0, request)

        @safe
        def on_shuffle(
            subset_: object, category_: object, words_: object, request: gr.Request
        ) -> Updates:
            """The same list in an order drawn anew."""
            seed = 1 + secrets.randbelow(MAX_SEED)
            yield from filtered(subset_, category_, words_, seed, request)

        def filtered(
            subset_: object, category_: object, words_: object, seed: int, request: gr.Request
        ) -> Updates:
            if category_ not in catalogue.categories(str(subset_ or "")):
                category_ = ""
            given = {"subset": subset_, "category": category_, "words": words_, "seed": seed}
            link = read(urlencode({name: value for name, value in given.items() if value}))
            if isinstance(link, str):
                yield {rows_stage: link}
            else:
                yield from show(link, request.session_hash)

        @safe
        def on_tick(request: gr.Request) -> Updates:
            """While the dataset is read: how far it is, and the whole list once it is there."""
            is_done, visitor = catalogue.state in ("ready", "failed"), request.session_hash
            yield {top: markup.masthead(catalogue), timer: gr.Timer(active=not is_done)}
            link = turns.last(visitor, ROWS)
            if is_done and isinstance(link, RowsLink) and not link.row:
                yield from show(link, visitor)

        hidden = {"api_visibility": "private", "show_progress": "hidden"}
        # A click while pictures are on their way is not lost (Turns lets the older one end).
        eager = {**hidden, "trigger_mode": "multiple"}
        # Gradio's request does not carry the query of the page's own address.
        page.load(open_page, address, everything, js="() => [location.search]", **hidden)
        timer.tick(on_tick, None, everything, **hidden)
        for stage in (rows_stage, board_stage):
            stage.select(on_click, None, everything, **eager)
        filters = [subset, category, words]
        gr.on(
            [subset.input, category.input, words.submit, search.click],
            on_filter,
            filters,
            everything,
            **eager,
        )
        shuffle.click(on_shuffle, filters, everything, **eager)
        gr.api(api.rows, api_name="rows")
        gr.api(api.row, api_name="row")
        gr.api(api.search, api_name="search")
        gr.api(api.result_list, api_name="results")
    return page.queue(max_size=WAITING_VISITORS, default_concurrency_limit=AT_ONCE)


page = build()

if __name__ == "__main__":
    page.launch(
        theme=THEME,
        css=STYLE,
        max_file_size=1024,
        show_error=False,
        footer_links=["api", "settings"],
        ssr_mode=False,
    )
