"""Pushes the metric folders as complete Spaces, with the wheel of echo4o that they install.

A Space installs packages before its own files are there, so the wheel goes into a dataset repo
beside them, and each Space names it by commit and hash. Once a package index has echo4o, the plain
requirement will do.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from echo4o.errors import Echo4oError
from echo4o.hub import Published, publish_folder
from echo4o.records import sha256_file, write_atomic

from .tasks import task_names

WHEELS = "echo4o-wheel"
REQUIREMENTS = "requirements.txt"
_NAMED = "echo4o[eval]"
_SOURCES = ("src", "dataset_builder", "training", "eval", "model_cards", "spaces")
_FILES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
_LEFT_OUT = ("__pycache__", "*.pyc", "*.egg-info")
_CARD = """---
license: apache-2.0
pretty_name: Wheel of echo4o
viewer: false
---

# The wheel that the metric Spaces of {organisation} install

`{name}`, SHA-256 `{sha256}`.
"""


class PushedMetrics(NamedTuple):
    """What `push_metrics` published."""

    wheel: Published
    spaces: tuple[Published, ...]


def metric_folder(task: str) -> Path:
    """Return the folder of a task's metric."""
    return Path(__file__).parent / "metrics" / task


def push_metrics(
    organisation: str,
    *,
    wheel: Path | None = None,
    tasks: Sequence[str] = (),
    dry_run: bool = False,
) -> PushedMetrics:
    """Publish the wheel and the Spaces `ORG/<task>`; with nothing changed, nothing is written.

    Args:
        organisation: Owner on the Hub.
        wheel: A wheel of echo4o; None builds one from this checkout.
        tasks: Which; all of them if empty.
        dry_run: Only compare and report.

    Raises:
        Echo4oError: the wheel is none of echo4o, or cannot be built here.
        HubError: what the Hub refused.
    """
    with tempfile.TemporaryDirectory(prefix="echo4o-metrics-") as name:
        scratch = Path(name)
        built = _check_wheel(wheel) if wheel is not None else build_wheel(scratch / "wheel")
        pushed = _push_wheel(built, organisation, scratch / WHEELS, dry_run)
        address = _address(organisation, pushed.revision or "main", built)
        spaces = [
            publish_folder(
                stage_metric(task, scratch / task, address),
                f"{organisation}/{task}",
                repo_type="space",
                message=f"Metric {task}",
                dry_run=dry_run,
            )
            for task in tasks or task_names()
        ]
    return PushedMetrics(pushed, tuple(spaces))


def stage_metric(task: str, folder: Path, address: str) -> Path:
    """Copy a metric's folder to `folder`, its requirement replaced by the wheel at `address`."""
    ignored = shutil.ignore_patterns(*_LEFT_OUT)
    shutil.copytree(metric_folder(task), folder, ignore=ignored)
    requirements = folder / REQUIREMENTS
    lines = requirements.read_text(encoding="utf-8").splitlines()
    if lines.count(_NAMED) != 1:
        raise Echo4oError(f"{requirements} must have one line {_NAMED!r}, which the wheel replaces")
    pinned = [f"{_NAMED} @ {address}" if line == _NAMED else line for line in lines]
    write_atomic(requirements, "\n".join(pinned) + "\n")
    return folder


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout; the same sources give the same bytes.

    Raises:
        Echo4oError: this is an installation without sources, or the build failed.
    """
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        raise Echo4oError(
            "this installation has no sources to build a wheel from; give one with --wheel"
        )
    # Built from a copy: what an earlier build left in the checkout would be packed as well.
    copy = folder / "sources"
    for name in _sources(root):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns(*_LEFT_OUT))
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
    return _check_wheel(next(folder.glob("*.whl")))


def _sources(root: Path) -> Iterator[str]:
    return (name for name in _SOURCES if (root / name).is_dir())


def _check_wheel(path: Path) -> Path:
    if not path.is_file() or not path.name.startswith("echo4o-") or path.suffix != ".whl":
        raise Echo4oError(f"{path} is no wheel of echo4o; build one with `make wheel`")
    return path


def _push_wheel(wheel: Path, organisation: str, folder: Path, dry_run: bool) -> Published:
    folder.mkdir()
    shutil.copyfile(wheel, folder / wheel.name)
    card = _CARD.format(
        organisation=organisation, name=wheel.name, sha256=sha256_file(folder / wheel.name)
    )
    write_atomic(folder / "README.md", card)
    return publish_folder(
        folder,
        f"{organisation}/{WHEELS}",
        repo_type="dataset",
        message=f"Wheel {wheel.name}",
        dry_run=dry_run,
    )


def _address(organisation: str, revision: str, wheel: Path) -> str:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(f"{organisation}/{WHEELS}", wheel.name, repo_type="dataset", revision=revision)
    return f"{url}#sha256={sha256_file(wheel)}"
