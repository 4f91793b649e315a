"""Starts the demo as a user does, and stops it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`echo4o space run generate` on a free port, until the block ends."""
    ready, log = folder / "ready.json", (folder / "space.log").open("ab")
    command = [sys.executable, "-m", "echo4o.cli", "space", "run", "generate", "--port", "0"]
    command += ["--ready-file", str(ready), *options]
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
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
