"""Builds a wheel of this checkout; the same sources give the same bytes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .errors import Echo4oError

_SOURCES = ("src", "dataset_builder", "training", "eval", "model_cards", "spaces")
_FILES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
LEFT_OUT = ("__pycache__", "*.pyc", "*.egg-info")
"""Patterns of what never belongs into a wheel or an upload."""


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout into `folder`.

    Raises:
        Echo4oError: this is an installation without sources, or the build failed.
    """
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").is_file():
        raise Echo4oError(
            "this installation has no sources to build a wheel from; give one with --wheel"
        )
    # Built from a copy: what an earlier build left in the checkout would be packed as well.
    copy = folder / "sources"
    for name in _SOURCES:
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for name in _FILES:
        shutil.copyfile(root / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(folder), str(copy)]
    done = subprocess.run(
        command,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1577836800"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise Echo4oError(f"the wheel cannot be built: {said[-1] if said else 'no reason given'}")
    return check_wheel(next(folder.glob("*.whl")))


def check_wheel(path: Path) -> Path:
    """The path itself, when it is a wheel of echo4o.

    Raises:
        Echo4oError: it is something else.
    """
    if not path.is_file() or not path.name.startswith("echo4o-") or path.suffix != ".whl":
        raise Echo4oError(f"{path} is no wheel of echo4o; build one with `make wheel`")
    return path
