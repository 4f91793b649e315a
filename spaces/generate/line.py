"""The line before the model: what waits in it, where a visitor stands, and how one leaves it."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple, TypeVar

import gradio as gr
from checks import Refusal
from gradio.context import Context
from gradio.events import Dependency
from gradio.queueing import Event, Queue
from gradio.server_messages import ProcessCompletedMessage

T = TypeVar("T")
MODEL = "model"
FULL = "Too many people wait here just now; please try again in a minute."
LOST = "This request was lost; please try again."
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
ON_MODEL: dict[str, Any] = {"concurrency_id": MODEL, "concurrency_limit": 1, **PRIVATE}


class Place(NamedTuple):
    """Where a request stands in the line."""

    before: int
    """Requests that come first, the one in work included."""
    seconds: float
    """How long those will probably take; 0 before anything was measured."""


class Stopped(Refusal):
    """The visitor wants no result any more."""

    def __init__(self) -> None:
        super().__init__("Stopped.")


class Stop:
    """The stop button of one tab.

    The answer to a click can overtake a late piece of the work's stream, or come when the next work
    has begun. So the stream itself says that it was stopped, and ends.
    """

    def __init__(self) -> None:
        self._asked: set[str | None] = set()

    def forget(self, session: str | None) -> None:
        """A new request begins: an earlier click was for another one."""
        self._asked.discard(session)

    def heed(self, session: str | None, updates: Generator[T, None, None]) -> Iterator[T]:
        """The updates of a visit's work.

        Raises:
            Stopped: the visitor asked for it; `updates` is closed.
        """
        with closing(updates):
            for update in updates:
                if session in self._asked:
                    raise Stopped
                yield update

    def listen(
        self,
        button: gr.Button,
        work: Dependency,
        last: Sequence[object],
        stage: tuple[gr.HTML, str],
    ) -> None:
        """Connect the button: `last` is what the outputs of `work` get when it never began.

        Until the stream ends, `stage` shows that the click was heard.
        """
        page, (output, words) = _page(), stage

        async def end(request: gr.Request) -> object:
            # A coroutine, so that nothing else takes from the queue meanwhile.
            queue, mine = page._queue, (request.session_hash, work["id"])
            waiting = _waiting(queue)
            for event in waiting:
                if _whose(event) == mine:
                    waiting.remove(event)
                    queue.event_ids_to_events.pop(event._id, None)
                    ended = ProcessCompletedMessage(output={"data": [*last]}, success=True)
                    queue.send_message(event, ended)
                    return words
            if any(_whose(event) == mine for job in queue.active_jobs for event in job or ()):
                self._asked.add(request.session_hash)
                return words
            return gr.skip()

        button.click(end, outputs=output, queue=False, trigger_mode="multiple", **PRIVATE)


def place(queue: Queue, session: str | None, work: int) -> Place | None:
    """Where a visit's request for `work` (an id) stands; None when it does not wait."""
    line = queue.event_queue_per_concurrency_id.get(MODEL)
    if line is None:
        return None
    usual = {fn: known.avg_time for fn, known in queue.process_time_per_fn.items()}
    now, before = time.time(), 0
    seconds = 0.0
    for fn, starts in line.start_times_per_fn.items():
        before += len(starts)
        seconds += sum(max(usual.get(fn, 0.0) - (now - start), 0.0) for start in starts)
    for event in line.queue:
        if _whose(event) == (session, work):
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
    clock: gr.Timer, work: Dependency, output: gr.HTML, shown: Callable[[Place], str]
) -> None:
    """While `clock` ticks: show in `output` where the visitor's `work` stands, while it waits."""
    page = _page()

    def told(request: gr.Request) -> object:
        found = place(page._queue, request.session_hash, work["id"])
        return gr.skip() if found is None else shown(found)

    # Not through the queue: there it would take one of the places that the model's work needs.
    clock.tick(told, outputs=output, queue=False, **PRIVATE)


def _waiting(queue: Queue) -> list[Event]:
    line = queue.event_queue_per_concurrency_id.get(MODEL)
    return [] if line is None else line.queue


def _whose(event: Event) -> tuple[str | None, int]:
    return event.session_hash, event.fn._id


def _page() -> gr.Blocks:
    page = Context.root_block
    assert page is not None, "a page is being built"
    return page
