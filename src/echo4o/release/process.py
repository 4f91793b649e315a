"""Child processes that end with their parent, and the memory of the whole process tree."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..children import DIE_WITH_PARENT
from ..errors import Echo4oError


def start(
    words: Sequence[str], environment: Mapping[str, str], *, log: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start `echo4o <words>` with the same Python; it is killed when this process dies.

    Args:
        words: Noun, verb and options.
        environment: All variables of the child.
        log: File for its output; None shares ours.
    """
    command = [sys.executable, "-m", "echo4o.cli", *words]
    if log is None:
        return subprocess.Popen(command, env=environment, preexec_fn=DIE_WITH_PARENT)
    with log.open("ab") as stream:
        return subprocess.Popen(
            command, env=environment, preexec_fn=DIE_WITH_PARENT, stdout=stream, stderr=stream
        )


class MemoryWatch(threading.Thread):
    """Samples the resident memory of this process and all its descendants.

    Looking at every process costs 60 ms, which training on all cores would feel more often.
    """

    def __init__(self, interval_s: float = 3.0) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._interval_s = interval_s
        self._stop_event = threading.Event()

    def run(self) -> None:
        """Sample until `stop`."""
        while not self._stop_event.wait(self._interval_s):
            self.peak_bytes = max(self.peak_bytes, tree_bytes(os.getpid()))

    def stop(self) -> int:
        """End sampling; return the largest sum seen, in bytes."""
        self._stop_event.set()
        self.join()
        return self.peak_bytes


def tree_bytes(pid: int) -> int:
    """Resident bytes of a process and its descendants; shared pages count once per process."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


def wait_for(path: Path, process: subprocess.Popen[bytes], *, seconds: float, log: Path) -> None:
    """Wait until a server has written its ready file.

    Raises:
        Echo4oError: The process ended, or the time is over; the last line of `log` says why.
    """
    deadline = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
            raise Echo4oError(f"a server did not start: {lines[-1]} (all of it: {log})")
        time.sleep(0.05)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a server to end; insist after ten seconds."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    process.kill()
