"""A fresh virtual environment with this echo4o from a wheel, and the release's own versions."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ..children import DIE_WITH_PARENT
from ..errors import Echo4oError
from ..records import write_atomic
from ..wheel import build_wheel, check_wheel

EXTRAS = "build,card,eval,sign,space"


def make_environment(
    folder: Path, packages: Mapping[str, str], wheel: Path | None, say: Callable[[str], None]
) -> Path:
    """Make `folder` a virtual environment; returns its Python.

    Args:
        folder: New folder.
        packages: Versions that the release was made with; others are left to the package index.
        wheel: Wheel of echo4o; None builds one from this checkout.
        say: Told what takes long.

    Raises:
        Echo4oError: something cannot be installed.
    """
    with tempfile.TemporaryDirectory(prefix="echo4o-wheel-") as scratch:
        built = check_wheel(wheel) if wheel is not None else build_wheel(Path(scratch))
        say(f"[environment] installing {built.name} and the release's versions")
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        constraints = folder / "constraints.txt"
        lines = (f"{name}=={version}\n" for name, version in packages.items() if name != "pip")
        write_atomic(constraints, "".join(lines))
        python = folder / "bin/python"
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pip += ["--no-compile", "--progress-bar", "off", "-c", str(constraints)]
        _run([*pip, f"{built}[{EXTRAS}]"])
    return python


def run_inside(python: Path, words: list[str]) -> int:
    """Run `echo4o WORDS` in the environment; returns its status."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    child = subprocess.Popen(
        [str(python), "-m", "echo4o.cli", *words],
        env={**variables, "PYTHONNOUSERSITE": "1"},
        preexec_fn=DIE_WITH_PARENT,
    )
    try:
        return child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=DIE_WITH_PARENT
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        said = said or done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise Echo4oError(f"the fresh environment cannot be made: {said[0]}")
