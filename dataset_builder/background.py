"""Work in a thread, in its order: rows are read ahead, and writing goes on meanwhile."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Queue
from threading import Event, Thread
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
AHEAD = 2
"""Jobs that may wait; each holds a row group in memory."""
_GROUP_BYTES = 1 << 20
_GROUPS = 8
"""So many are made ahead: fewer make the threads wait for each other, each costs its bytes."""


class Background:
    """One thread; an error of a job comes out at a later call."""

    def __init__(self, ahead: int = AHEAD) -> None:
        """`ahead` jobs may wait; whoever gives one more waits too."""
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="echo4o-write")
        self._jobs: deque[Future[None]] = deque()
        self._ahead = ahead

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def do(self, job: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> Future[None]:
        """Do this after what was given before; waits while too much is waiting."""
        while len(self._jobs) > self._ahead:
            self._jobs.popleft().result()
        given = self._pool.submit(job, *args, **kwargs)
        self._jobs.append(given)
        return given

    def wait(self) -> None:
        """Until everything is done; raises what a job raised."""
        while self._jobs:
            self._jobs.popleft().result()


def read_ahead(items: Iterator[T], size_of: Callable[[T], int]) -> Iterator[T]:
    """The same items, made in a thread while the caller works; they are handed over a MB at once.

    An error of `items` comes out in its place, without the last items before it. Nobody waits for
    the thread when the caller gives up: it may be waiting for a server.
    """
    groups: Queue[list[T]] = Queue(_GROUPS)
    errors: list[BaseException] = []
    is_over = Event()

    def make() -> None:
        try:
            made, size = [], 0
            for item in items:
                made.append(item)
                size += size_of(item)
                if size >= _GROUP_BYTES:
                    groups.put(made)
                    made, size = [], 0
                if is_over.is_set():
                    return
            if made:
                groups.put(made)
        except BaseException as error:  # the caller raises it
            errors.append(error)
        groups.put([])

    Thread(target=make, name="echo4o-read", daemon=True).start()
    try:
        while made := groups.get():
            yield from made
    finally:
        is_over.set()
        with suppress(Empty):
            while True:
                groups.get_nowait()
    if errors:
        raise errors[0]
