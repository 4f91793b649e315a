"""Work in a thread, in its order: rows are read ahead, and writing goes on meanwhile."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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

    An error of `items` comes out in its place, without the last items before it.
    """

    def group() -> list[T]:
        made, size = [], 0
        for item in items:
            made.append(item)
            size += size_of(item)
            if size >= _GROUP_BYTES:
                break
        return made

    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="echo4o-read")
    try:
        jobs = deque(pool.submit(group) for _ in range(_GROUPS))
        while made := jobs.popleft().result():
            jobs.append(pool.submit(group))
            yield from made
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
