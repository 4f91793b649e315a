"""Work in the model's own thread, read as it comes, and ended when nobody reads on.

One thread for all of it: the model is asked one at a time, and torch keeps one pool of helpers.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from loads import LOADS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
Put = Callable[[Any], None]
BEAT_SECONDS = 0.25
"""A reader hears at least this often, so that it can be stopped while a step takes long."""
PIECE_SECONDS = 0.08
"""Least time between two pieces of a text."""


class Piece(NamedTuple):
    """A text that is being written, whole so far."""

    text: str


class Tick(NamedTuple):
    """Nothing new; still at work."""


class Stopped(Exception):
    """Nobody waits for the result any more."""


class Streams:
    """The model's thread."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None

    def run(self, work: Callable[[Put], None]) -> Iterator[Any]:
        """What `work` puts, as it comes, None as a Tick in every pause; raises what it raises.

        Closing this iterator makes the next `put` raise, which ends the work.
        """
        # Made here and not before: on ZeroGPU this runs in a forked process.
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="model")
        items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stop, end = threading.Event(), object()

        def put(item: object) -> None:
            if stop.is_set():
                raise Stopped
            items.put(item)

        def whole() -> None:
            try:
                LOADS.wait()
                if not stop.is_set():
                    work(put)
            finally:
                items.put(end)

        future, heard = self._thread.submit(whole), time.monotonic()
        try:
            while True:
                try:
                    item = items.get(timeout=BEAT_SECONDS)
                except queue.Empty:
                    item = None
                if item is end:
                    future.result()
                    return
                if item is not None or time.monotonic() - heard >= BEAT_SECONDS:
                    yield Tick() if item is None else item
                    heard = time.monotonic()
        finally:
            stop.set()

    @staticmethod
    def writer(tokenizer: "PreTrainedTokenizerBase", put: Put) -> object:
        """A transformers streamer that puts the text so far, whole words at a time."""
        from transformers import TextStreamer

        class Writer(TextStreamer):
            """Collects what is decoded."""

            said, told = "", 0.0

            def put(self, value: Any) -> None:
                super().put(value)
                # Also where no word is complete: a stopped text ends with its next token.
                put(None)

            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                self.said += text
                now = time.monotonic()
                if stream_end or now - self.told >= PIECE_SECONDS:
                    self.told = now
                    put(Piece(self.said.strip()))

        return Writer(tokenizer, skip_special_tokens=True)
