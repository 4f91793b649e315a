"""The line before the model: what waits in it, and where a visitor stands, told while they wait."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr
from gradio.context import Context
from gradio.queueing import Queue

MODEL = "model"
FULL = "Too many people wait here just now; please try again in a minute."
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
ON_MODEL: dict[str, Any] = {"concurrency_id": MODEL, "concurrency_limit": 1, **PRIVATE}


class Place(NamedTuple):
    """Where a request stands in the line."""

    before: int
    """Requests that come first, the one in work included."""
    seconds: float
    """How long those will probably take; 0 before anything was measured."""


def place(queue: Queue, session: str | None) -> Place | None:
    """Where the request of a visit stands; None when none of it waits."""
    line = queue.event_queue_per_concurrency_id[MODEL]
    usual = {fn: known.avg_time for fn, known in queue.process_time_per_fn.items()}
    now, before = time.time(), 0
    seconds = 0.0
    for fn, starts in line.start_times_per_fn.items():
        before += len(starts)
        seconds += sum(max(usual.get(fn, 0.0) - (now - start), 0.0) for start in starts)
    for event in line.queue:
        if event.session_hash == session:
            return Place(before, seconds)
        before += 1
        seconds += usual.get(event.fn, 0.0)
    return None


def door() -> Callable[[], None]:
    """A check, for the page that is being built, that its queue has room for one more.

    Gradio refuses too, but then the page has been told already that its request waits.
    """
    page = _page()

    def check() -> None:
        queue = page._queue
        if queue.max_size is not None and len(queue) >= queue.max_size:
            raise gr.Error(FULL, title="The queue is full", print_exception=False)

    return check


def follow(
    clock: gr.Timer, output: gr.components.Component, shown: Callable[[Place], object]
) -> None:
    """While `clock` ticks: show in `output` where the visitor stands, as long as they wait."""
    page = _page()

    def told(request: gr.Request) -> object:
        found = place(page._queue, request.session_hash)
        return gr.skip() if found is None else shown(found)

    # Not through the queue: there it would take one of the places that the model's work needs.
    clock.tick(told, outputs=output, queue=False, **PRIVATE)


def _page() -> gr.Blocks:
    page = Context.root_block
    assert page is not None, "a page is being built"
    return page
