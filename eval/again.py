"""Judges stored pictures of a results dataset again, with the `evaluate` module of a Space.

What comes from the Space is code; `release verify` runs this in a process without tokens and gives
the judge's key only to modules that equal the installed ones.
"""

import inspect
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from echo4o.errors import Echo4oError
from echo4o.hub_reading import download_file
from echo4o.records import write_atomic

from .runs import LEDGER, Run, load_run
from .tasks import get_task

_ATTEMPTS = 4
"""To load a metric: `evaluate` has no patience with a Hub that fails for a moment."""


def judge_again(space: str, results: Path | None, most: int, out: Path) -> dict[str, Any]:
    """Load `ORG/NAME@REVISION` from the Hub and hold its verdicts against the stored ones.

    Args:
        space: The metric's Space; NAME is its task.
        results: A downloaded results dataset; None only loads the metric.
        most: Pictures of each run.
        out: Folder for pictures and ledgers; a ledger of `eval judge` there is used.

    Returns:
        What the metric says of itself, and for each run how many verdicts are equal.

    Raises:
        Echo4oError: there is no such metric.
    """
    metric, name = _load(space), space.partition("@")[0].rpartition("/")[2]
    told: dict[str, Any] = {"space": space, "description": metric.description.strip(), "runs": []}
    asks = "judge" in inspect.signature(metric._compute).parameters
    if results is None or not asks or get_task(name).pictures > 1:
        return told
    for file in sorted(results.glob("runs/*/run.json")):
        run = load_run(file)
        if run.task == name:
            told["runs"].append(_compare(metric, run, results, file.parent.name, most, out))
    return told


def _load(space: str) -> Any:
    """What `evaluate` loads; a Hub that fails for a moment is asked again."""
    repo, _, revision = space.partition("@")
    module = f"{repo.rpartition('/')[2]}.py"
    if download_file(repo, "space", module, revision or "main") is None:
        raise Echo4oError(f"{space} is no metric, for it holds no {module}; check its name")
    import evaluate
    from evaluate.utils.file_utils import DownloadConfig

    for attempt in range(1, _ATTEMPTS + 1):
        # The answer of a Hub that fails is kept as if it were the module: not a second time.
        fresh = DownloadConfig(force_download=attempt > 1)
        try:
            return evaluate.load(repo, revision=revision or "main", download_config=fresh)
        except Exception as error:  # whatever a wrong module makes the library raise
            if attempt == _ATTEMPTS:
                said = next(iter(str(error).splitlines()), "no reason given")
                raise Echo4oError(f"{space} is a metric that does not load: {said}") from error
            time.sleep(attempt)
    raise AssertionError("the loop above returns or raises")


def _compare(
    metric: Any, run: Run, results: Path, label: str, most: int, out: Path
) -> dict[str, Any]:
    items = {item.number: item for item in get_task(run.task).items(run.items["source"]).items}
    chosen = list(_stored(results, label, most))
    pictures = [out / label / "pictures" / f"{row['number']}.png" for row in chosen]
    for row, picture in zip(chosen, pictures, strict=True):
        write_atomic(picture, row["image"]["bytes"])
    if not chosen:
        return {"run": label, "asked": 0, "equal": 0, "calls": 0}
    made = metric.compute(
        predictions=[str(one) for one in pictures],
        references=[items[row["number"]].to_json() for row in chosen],
        judge=run.judge["model"],
        protocol=run.protocol["name"],
        ledger=str(out / label / "run" / LEDGER),
    )
    pairs = zip(chosen, made["verdicts"], strict=True)
    equal = sum(row["correct"] == verdict["correct"] for row, verdict in pairs)
    return {"run": label, "asked": len(chosen), "equal": equal, "calls": made["calls"]}


def _stored(results: Path, label: str, most: int) -> Iterator[dict[str, Any]]:
    """Judged pictures, spread over the run."""
    import pyarrow.parquet as pq

    columns = ["number", "sample", "repeat", "outcome", "correct", "image"]
    table = pq.read_table(results / "data/verdicts" / f"{label}.parquet", columns=columns)
    rows = [
        row
        for row in table.to_pylist()
        if row["image"] and row["outcome"] == "judged" and row["sample"] == row["repeat"] == 1
    ]
    yield from rows[:: max(1, len(rows) // most)][:most]


def tell(found: list[dict[str, Any]], as_json: bool) -> str:
    """What was found, for programs or for people."""
    if as_json:
        return json.dumps(found)
    lines = []
    for one in found:
        lines.append(f"{one['space']}: {one['description'].splitlines()[0]}")
        lines += [
            f"  {run['run']}: {run['equal']} of {run['asked']} verdicts equal, {run['calls']} calls"
            for run in one["runs"]
        ]
    return "\n".join(lines)
