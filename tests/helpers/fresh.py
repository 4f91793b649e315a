"""An environment that never saw this checkout: a wheel and what a Space's requirements name."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(command: Sequence[object], **options: object) -> None:
    """Run a command; what it printed is the message when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr


def build_wheel(folder: Path) -> Path:
    """The folder with the wheel of this checkout."""
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT])
    return folder


def environment(folder: Path, wheel: Path, space: Path, *more: str) -> Path:
    """The programs of a new environment that has what `space` asks for, and `more` packages."""
    run([sys.executable, "-m", "venv", folder])
    wanted = ["--find-links", wheel, "-r", space / "requirements.txt", *more]
    quiet = ["-q", "--no-warn-script-location", "--disable-pip-version-check"]
    run([folder / "bin/python", "-m", "pip", "install", *quiet, *wanted])
    run([folder / "bin/python", "-m", "pip", "check"])
    return folder / "bin"


@contextmanager
def started(
    programs: Path, space: Path, home: Path, variables: Mapping[str, str]
) -> Iterator[tuple[str, float]]:
    """Address of a downloaded Space that those programs run, and when it was started."""
    # Nothing of this checkout, no token: only what was downloaded.
    clean = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        **variables,
    }
    ready = home / "ready.json"
    command = [programs / "echo4o", "space", "run", f"{space}/", "--port", "0"]
    begun = time.monotonic()
    child = subprocess.Popen([*command, "--ready-file", ready], env=clean, cwd=home)
    try:
        while not ready.exists():
            assert child.poll() is None
            assert time.monotonic() - begun < 120
            time.sleep(0.05)
        yield json.loads(ready.read_text())["url"], begun
    finally:
        child.terminate()
        child.wait(20)
