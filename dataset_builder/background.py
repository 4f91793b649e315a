"""Jobs in their order in a thread: writing goes on while the next rows are read."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self

P = ParamSpec("P")
AHEAD = 2
"""Jobs that may wait; each holds a row group in memory."""


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
