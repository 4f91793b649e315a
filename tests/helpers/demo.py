"""Starts a Space as a user does, and stops it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TINY = {"ECHO4O_DEMO": "tiny", "OMP_NUM_THREADS": "1"}
"""Variables with which the demo uses the small model of the package."""


@contextmanager
def running(
    folder: Path,
    *options: str,
    name: str = "generate",
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`echo4o space run NAME` on a free port, until the block ends."""
    ready, log = folder / "ready.json", (folder / "space.log").open("ab")
    command = [sys.executable, "-m", "echo4o.cli", "space", "run", name, "--port", "0"]
    command += ["--ready-file", str(ready), *options]
    process = subprocess.Popen(
        command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **(environment or {})}
    )
    deadline = time.monotonic() + 120
    try:
        while not ready.exists():
            assert process.poll() is None, (folder / "space.log").read_text()
            assert time.monotonic() < deadline, "the Space did not start"
            time.sleep(0.05)
        yield json.loads(ready.read_text())["url"], process
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()
