"""Child processes that do not outlive the process that started them."""

import ctypes
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


DIE_WITH_PARENT: Callable[[], None] | None = _die_with_parent if _LIBC is not None else None
"""For `subprocess.Popen(preexec_fn=)`: even kill -9 of the parent leaves no child (Linux only)."""
