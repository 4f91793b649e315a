"""What figures were measured on, and how busy it was."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


def describe() -> dict[str, Any]:
    """Processor, cores, load at the start, torch version, time."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
        "torch": torch.__version__,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
