"""The canary: fixed pictures with the verdicts that a judge first gave, judged again by every run.

The first run of a judge on a task records it from its own pictures; later runs ask about those too,
and `drift` says whether the judge is still the same. It lies outside of all runs, in the user's
cache, one for each task, protocol and judge. A judge is a model's name at a server: the same name
elsewhere may be other weights.
"""

import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from echo4o.errors import Echo4oError
from echo4o.owner import sole_owner
from echo4o.records import sha256_file, write_atomic

from .cases import Case
from .drift import Drift, drift
from .items import Item, select
from .protocols import JudgeProtocol
from .tasks import Task
from .verdicts import Verdict

FORMAT = 1
MOST = 280
"""Pictures of a canary: with them a shift of 10 points is found by one run."""
FEWEST = 70
"""From fewer pictures no canary is recorded."""
_FILE = "canary.json"
_OPENAI = "api.openai.com"
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Canary:
    """Recorded pictures and verdicts, or the place where they will be."""

    folder: Path
    task: Task
    protocol: JudgeProtocol
    items: tuple[Item, ...] = ()
    """Numbered by place; empty when nothing was recorded yet."""
    pictures: tuple[str, ...] = ()
    """File name of each item's picture."""
    runs: tuple[dict[str, Any], ...] = ()
    """What each run said: its `run` token, `created`, `answered_as`, and `values` by place."""

    def cases(self) -> list[Case]:
        """Return what a run asks about besides its own pictures."""
        return [
            Case(item=item, path=self.folder / name, protocol=self.protocol)
            for item, name in zip(self.items, self.pictures, strict=True)
        ]


def default_folder() -> Path:
    """Return where canaries lie: $ECHO4O_CANARIES, else a folder in the user's cache."""
    if chosen := os.environ.get("ECHO4O_CANARIES"):
        return Path(chosen)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "echo4o" / "canaries"


def open_canary(
    root: Path, task: Task, protocol: JudgeProtocol, judge: str, base_url: str | None = None
) -> Canary:
    """Return the canary of a judge on a task; an empty one before its first run.

    `base_url` is the judge's server; without one OPENAI_BASE_URL, else OpenAI's own.

    Raises:
        Echo4oError: the recorded canary is damaged.
    """
    place = _place(base_url or os.environ.get("OPENAI_BASE_URL", ""))
    name = _NO_NAME.sub("_", f"{task.name}-{protocol.name}-{protocol.version}-{judge}{place}")
    folder = root / name
    empty = Canary(folder=folder, task=task, protocol=protocol)
    if not (folder / _FILE).is_file():
        return empty
    try:
        value = _read(folder)
        rows = enumerate(value["items"], start=1)
        items = tuple(replace(task.read_row(row, place), number=place) for place, row in rows)
        for file, digest in value["pictures"].items():
            if sha256_file(folder / Path(file).name) != digest:
                raise ValueError(f"{file} is another picture now")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, error) from error
    return replace(empty, items=items, pictures=tuple(value["pictures"]), runs=tuple(value["runs"]))


def _place(address: str) -> str:
    """What tells a server from others in a folder's name; nothing for OpenAI's own."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    where = (
        f"{parts.hostname or ''}{f'-{parts.port}' if parts.port else ''}{parts.path.rstrip('/')}"
    )
    return "" if parts.hostname in (None, _OPENAI) else f"-{where}"


def record(
    canary: Canary, items: Sequence[Item], pictures: Path, verdicts: Sequence[Verdict], run: str
) -> int:
    """Make a canary of a run's own pictures and verdicts; returns of how many.

    0 for too few, or when another run has made one meanwhile. `run` tells the run from all others.
    """
    by_number = {
        one.number: one
        for one in verdicts
        if one.outcome == "judged" and (one.sample, one.repeat) == (1, 1)
    }
    judged = [item for item in items if item.number in by_number]
    if len(judged) < FEWEST:
        return 0
    chosen = select(judged, MOST)
    said = [by_number[item.number] for item in chosen]
    with _alone(canary.folder):
        if (canary.folder / _FILE).is_file():
            return 0  # another run was first
        names = []
        for place, verdict in enumerate(said, start=1):
            source = pictures / str(verdict.picture)
            names.append(f"{place}{source.suffix.lower()}")
            shutil.copyfile(source, canary.folder / names[-1])
        first = _noted(canary, said, run)
        _save(replace(canary, items=chosen, pictures=tuple(names), runs=(first,)))
    return len(chosen)


def compare(canary: Canary, verdicts: Sequence[Verdict], run: str) -> Drift | None:
    """Note what a run said about the canary and return what that means.

    None when the canary was recorded from this very run. A run that is run again is noted once.
    """
    with _alone(canary.folder):
        # Another run may have ended since the canary was opened.
        runs = list(_read(canary.folder)["runs"])
        place = next((n for n, one in enumerate(runs) if one["run"] == run), len(runs))
        if place == 0:
            return None
        runs[place : place + 1] = [_noted(canary, verdicts, run)]
        _save(replace(canary, runs=tuple(runs)))
    return drift(runs[0]["values"], [one["values"] for one in runs[1 : place + 1]])


def _alone(folder: Path) -> AbstractContextManager[None]:
    return sole_owner(folder, f"another run has {folder}; run the command again", patience_s=30)


def _noted(canary: Canary, verdicts: Sequence[Verdict], run: str) -> dict[str, Any]:
    scale = 1.0 if canary.task.grading is None else canary.task.grading.scale
    values = [one.value / scale if one.outcome == "judged" else None for one in verdicts]
    created = max((one.created for one in verdicts), default="")
    names = sorted({one.judge_model for one in verdicts if one.judge_model})
    return {"run": run, "created": created, "answered_as": names, "values": values}


def _read(folder: Path) -> dict[str, Any]:
    value = json.loads((folder / _FILE).read_bytes())
    if not isinstance(value, dict) or value.get("format") != FORMAT or not value.get("runs"):
        raise ValueError(f"no canary of format {FORMAT}")
    return value


def _save(canary: Canary) -> None:
    files = {name: sha256_file(canary.folder / name) for name in canary.pictures}
    value = {
        "format": FORMAT,
        "task": canary.task.name,
        "protocol": {"name": canary.protocol.name, "version": canary.protocol.version},
        "items": [item.to_json() for item in canary.items],
        "pictures": files,
        "runs": list(canary.runs),
    }
    write_atomic(canary.folder / _FILE, json.dumps(value) + "\n")


def _damaged(folder: Path, error: Exception) -> Echo4oError:
    return Echo4oError(
        f"the canary in {folder} is damaged ({error}); delete that folder to record a new one, "
        "or use --no-canary"
    )
