"""One process at a time in a folder."""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import Echo4oError


@contextlib.contextmanager
def sole_owner(folder: Path, busy: str, *, patience_s: float = 0.0) -> Iterator[None]:
    """Hold `folder` for this process alone; the system lets go of it even after kill -9.

    Args:
        folder: Made if it is missing; `.lock` in it is what is locked.
        busy: The sentence for the user when another process has it.
        patience_s: How long to wait for one that is just ending.

    Raises:
        Echo4oError: another process has the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_s
    with (folder / ".lock").open("w") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Echo4oError(busy) from None
                time.sleep(0.05)
        yield
