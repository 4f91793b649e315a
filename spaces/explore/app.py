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
from links import BoardLink, RowsLink
from refusals import MAX_SEED, Refusal
from theme import STYLE, THEME
from visitors import Turns, guarded

Widget = TypeVar("Widget", bound=gr.components.Component)
Updates = Iterator[dict[gr.components.Component, object]]
SCRIPT = Path(__file__).with_name("page.js").read_text()
WAITING_VISITORS = 128
AT_ONCE = 8

turns = Turns()
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
            with gr.Tab("Dataset", id="rows"):
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
            with gr.Tab("Leaderboard", id="leaderboard"):
                board_stage = gr.HTML(
                    markup.notice("One moment", "The scores are on their way."),
                    js_on_load=SCRIPT,
                    apply_default_css=False,
                    elem_id="board-stage",
                )
        address = raw(gr.Textbox(visible=False))
        waiting = gr.State("")
        timer = gr.Timer(1, active=False)
        everything = [top, tabs, subset, category, words, rows_stage, board_stage, waiting, timer]

        safe = guarded({top: gr.skip()})

        def follow(link: RowsLink | BoardLink) -> Updates:
            """Show a link in its tab."""
            if isinstance(link, BoardLink):
                yield {tabs: gr.Tabs(selected="leaderboard")}
                for html in show_board(link):
                    yield {board_stage: html}
                return
            for html in show_rows(link):
                known = dict(zip((subset, category), choices(link.view), strict=True))
                is_partial = catalogue.state in ("opening", "indexing") and not link.row
                yield {
                    rows_stage: html,
                    words: link.view.words,
                    tabs: gr.Tabs(selected="rows"),
                    waiting: str(link) or "?" if is_partial else "",
                    **known,
                }

        def read(query: object) -> RowsLink | BoardLink | str:
            try:
                return links.read(query)
            except Refusal as refusal:
                return markup.notice("Not here", str(refusal), None, "Show all rows")

        @safe
        def open_page(query: object) -> Updates:
            """The view that the page's address names; then the other tab."""
            link = read(query)
            is_reading = catalogue.state in ("opening", "indexing")
            yield {top: markup.masthead(catalogue), timer: gr.Timer(active=is_reading)}
            if isinstance(link, str):
                yield {rows_stage: link}
                link = RowsLink()
            else:
                yield from follow(link)
            yield {top: markup.masthead(catalogue)}
            if isinstance(link, BoardLink):
                for html in show_rows(RowsLink()):
                    known = dict(zip((subset, category), choices(View()), strict=True))
                    yield {rows_stage: html, **known}
            else:
                for html in show_board(BoardLink()):
                    yield {board_stage: html}

        @safe
        def on_click(event: gr.EventData, request: gr.Request) -> Updates:
            """A link that was clicked, or the way back."""
            asked = event._data.get("link") if isinstance(event._data, Mapping) else None
            link = read(asked)
            if isinstance(link, str):
                yield {rows_stage: link}
            else:
                yield from turns.newest(request.session_hash, follow(link))

        @safe
        def on_filter(
            subset_: object, category_: object, words_: object, request: gr.Request
        ) -> Updates:
            """The list that the filters describe; a category of another subset is let go."""
            yield from turns.newest(request.session_hash, filtered(subset_, category_, words_, 0))

        @safe
        def on_shuffle(
            subset_: object, category_: object, words_: object, request: gr.Request
        ) -> Updates:
            """The same list in an order drawn anew."""
            seed = 1 + secrets.randbelow(MAX_SEED)
            yield from turns.newest(
                request.session_hash, filtered(subset_, category_, words_, seed)
            )

        def filtered(subset_: object, category_: object, words_: object, seed: int) -> Updates:
            if category_ not in catalogue.categories(str(subset_ or "")):
                category_ = ""
            given = {"subset": subset_, "category": category_, "words": words_, "seed": seed}
            link = read(urlencode({name: value for name, value in given.items() if value}))
            if isinstance(link, str):
                yield {rows_stage: link}
            else:
                yield from follow(link)

        @safe
        def on_tick(shown: str) -> Updates:
            """While the dataset is read: how far it is, and the whole list once it is there."""
            is_done = catalogue.state in ("ready", "failed")
            yield {top: markup.masthead(catalogue), timer: gr.Timer(active=not is_done)}
            if shown and is_done:
                link = read(shown)
                if not isinstance(link, str):
                    for changed in follow(link):
                        # Somebody may be typing.
                        yield {part: new for part, new in changed.items() if part is not words}

        hidden = {"api_visibility": "private", "show_progress": "hidden"}
        # A click while pictures are on their way is not lost (Turns lets the older one end).
        eager = {**hidden, "trigger_mode": "multiple"}
        # Gradio's request does not carry the query of the page's own address.
        page.load(open_page, address, everything, js="() => [location.search]", **hidden)
        timer.tick(on_tick, waiting, everything, **hidden)
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
