"""How the command line ends: with its own status, whatever libraries and readers do meanwhile."""

import atexit
import contextlib
import os
import select
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Around a whole program: it ends once threads and exit functions are done, not taken apart.

    Threads of pyarrow may still let go of Python objects then. The interpreter unwinds them inside
    of C++ that does not allow it: "terminate called", status 134 after all work was done (2 of 14
    times for `data show` on a busy machine).
    """
    status = 1  # of an error that nobody caught

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it, or it is closed
                stream.flush()
        os._exit(status)

    atexit.register(leave)  # the first one registered is the last one called
    try:
        yield
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        raise


def reader_is_gone() -> bool:
    """Whether nobody takes our output any more, as after `| head`; then the rest goes nowhere."""
    output = select.poll()
    output.register(sys.stdout.fileno(), select.POLLERR | select.POLLHUP)
    if not output.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
