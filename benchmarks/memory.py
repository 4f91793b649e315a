"""Memory of this process, as the kernel counts it: anonymous and mapped pages alike (Linux)."""

import gc
from pathlib import Path


def peak() -> int:
    """Bytes of the largest resident size so far, or since `reset_peak`."""
    return _status("VmHWM")


def resident() -> int:
    """Bytes that are resident now."""
    gc.collect()
    return _status("VmRSS")


def reset_peak() -> None:
    """Let the peak start anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: this needs Linux")
