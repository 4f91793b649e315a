"""Pushes the metric folders as complete Spaces, with the wheel of echo4o that they install.

A Space installs packages before its own files are there, so the wheel goes into a dataset repo
beside them, and each Space names it by commit and hash. Once a package index has echo4o, the plain
requirement will do.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from echo4o.errors import Echo4oError
from echo4o.hub import Published, RepoType, publish_folder
from echo4o.manifest import MANIFEST, Pinned, Release, seal
from echo4o.model_cards.metric_parts import metric_facts
from echo4o.model_cards.render import render_metric_card
from echo4o.records import sha256_file, write_atomic
from echo4o.wheel import LEFT_OUT, build_wheel, check_wheel

from .tasks import task_names

WHEELS = "echo4o-wheel"
REQUIREMENTS = "requirements.txt"
_NAMED = "echo4o[eval]"
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
    tag: str | None = None,
    release: Release | None = None,
    dry_run: bool = False,
) -> PushedMetrics:
    """Publish the wheel and the Spaces `ORG/<task>`; with nothing changed, nothing is written.

    Args:
        organisation: Owner on the Hub.
        wheel: A wheel of echo4o; None builds one from this checkout.
        tasks: Which; all of them if empty.
        tag: Immutable name of this version of all of them.
        release: What they are published with; the wheel comes first.
        dry_run: Only compare and report.

    Raises:
        Echo4oError: the wheel is none of echo4o, or cannot be built here.
        HubError: what the Hub refused.
    """
    with tempfile.TemporaryDirectory(prefix="echo4o-metrics-") as name:
        scratch = Path(name)
        built = check_wheel(wheel) if wheel is not None else build_wheel(scratch / "wheel")
        send = _Sender(organisation, tag, release, dry_run)
        pushed = send("dataset", _stage_wheel(built, organisation, scratch / WHEELS))
        address = _address(organisation, pushed.revision or "main", built)
        spaces = [
            send("space", stage_metric(task, scratch / task, address, f"{organisation}/{task}"))
            for task in tasks or task_names()
        ]
    return PushedMetrics(pushed, tuple(spaces))


@dataclass(kw_only=False, slots=True)
class _Sender:
    """Publishes folders one after the other, each under its name."""

    organisation: str
    tag: str | None
    release: Release | None
    dry_run: bool

    def __call__(self, kind: RepoType, folder: Path) -> Published:
        repo = f"{self.organisation}/{folder.name}"
        if self.release is not None:
            seal(folder, repo, kind, self.release)
        done = publish_folder(
            folder,
            repo,
            repo_type=kind,
            message="Wheel of echo4o" if kind == "dataset" else f"Metric {folder.name}",
            tag=self.tag,
            dry_run=self.dry_run,
        )
        if self.release is not None and done.revision is not None:
            manifest = sha256_file(folder / MANIFEST)
            pinned = Pinned(id=repo, type=kind, revision=done.revision, manifest=manifest)
            self.release = self.release.then(pinned)
        return done


def stage_metric(task: str, folder: Path, address: str, repo: str) -> Path:
    """Copy a metric's folder to `folder` as `repo` will hold it.

    Its requirement is the wheel at `address`, and its card loads it by its id.
    """
    ignored = shutil.ignore_patterns(*LEFT_OUT)
    shutil.copytree(metric_folder(task), folder, ignore=ignored)
    requirements = folder / REQUIREMENTS
    lines = requirements.read_text(encoding="utf-8").splitlines()
    if lines.count(_NAMED) != 1:
        raise Echo4oError(f"{requirements} must have one line {_NAMED!r}, which the wheel replaces")
    pinned = [f"{_NAMED} @ {address}" if line == _NAMED else line for line in lines]
    write_atomic(requirements, "\n".join(pinned) + "\n")
    write_atomic(folder / "README.md", render_metric_card(metric_facts(folder, repo_id=repo)))
    return folder


def _stage_wheel(wheel: Path, organisation: str, folder: Path) -> Path:
    folder.mkdir()
    shutil.copyfile(wheel, folder / wheel.name)
    card = _CARD.format(
        organisation=organisation, name=wheel.name, sha256=sha256_file(folder / wheel.name)
    )
    write_atomic(folder / "README.md", card)
    return folder


def _address(organisation: str, revision: str, wheel: Path) -> str:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(f"{organisation}/{WHEELS}", wheel.name, repo_type="dataset", revision=revision)
    return f"{url}#sha256={sha256_file(wheel)}"
