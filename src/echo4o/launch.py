"""`--processes N`: the same command as several processes of this machine, one rank each.

Clusters have torchrun and `accelerate launch`. This one needs no rendezvous, ends with its parent
even after kill -9, and passes SIGTERM on, so that the run saves itself.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from .children import DIE_WITH_PARENT
from .errors import Echo4oError

_POLL_SECONDS = 0.05


def launch(processes: int, module: str, words: Sequence[str]) -> int:
    """Run `python -m <module> <words>` once per rank; a rank that fails ends the others.

    Each process computes on its share of the cores, unless OMP_NUM_THREADS says otherwise.

    Returns:
        The status of the first rank that failed, else 0.

    Raises:
        Echo4oError: a signal ended a rank, which then could not say so itself.
    """
    common = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)),
        **os.environ,
        **{"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())},
    }
    command = [sys.executable, "-m", module, *words]
    ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    children = [
        subprocess.Popen(command, env=environment, preexec_fn=DIE_WITH_PARENT)
        for environment in ranks
    ]
    with _passing_on(signal.SIGTERM, children):
        try:
            return _wait(children)
        finally:
            for child in children:
                child.kill()
                child.wait()


def is_rank() -> bool:
    """Whether this process was started as one of several, by us or by torchrun."""
    return "RANK" in os.environ


def is_first_rank() -> bool:
    """Whether this process speaks for the run."""
    return os.environ.get("RANK", "0") == "0"


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        statuses = [child.poll() for child in children]
        failed = [status for status in statuses if status]
        if failed and min(failed) < 0:
            raise Echo4oError(
                f"a process of this run was ended from outside ({signal.strsignal(-min(failed))}; "
                "a system whose memory is full does that); run the same command again to go on"
            )
        if failed or None not in statuses:
            return failed[0] if failed else 0
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def _passing_on(number: int, children: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def pass_on(_number: int, _frame: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    before = signal.signal(number, pass_on)
    try:
        yield
    finally:
        signal.signal(number, before)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
