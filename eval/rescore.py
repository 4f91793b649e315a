"""Whether scores follow from their verdicts: of a run folder, or of a whole results dataset.

In a results dataset the rows of both tables and the pictures must also be those of the runs.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from echo4o.errors import Echo4oError
from echo4o.manifest import Difference
from echo4o.records import sha256_bytes

from .results_repo import run_row, verdict_row
from .runs import RUN_FILE, Run, load_run

_TEXTS = frozenset({"prompt", "findings", "reason", "raw_reply"})
_RUNS, _VERDICTS = "data/runs", "data/verdicts"


def check_results(folder: Path) -> tuple[list[dict[str, Any]], list[Difference]]:
    """Recompute every score below a folder.

    Returns:
        For each run its place, task, judge, protocol, start and recomputed scores; and everything
        that is stored otherwise.

    Raises:
        Echo4oError: there is no run.
    """
    files = sorted({*folder.glob(RUN_FILE), *folder.glob(f"runs/*/{RUN_FILE}")})
    if not files:
        raise Echo4oError(f"{folder} has no {RUN_FILE} and no runs/*/{RUN_FILE}; nothing to check")
    facts, differences = [], []
    for file in files:
        name = file.relative_to(folder).as_posix()
        try:
            run = load_run(file)
            scores = run.scores().to_json()
        except (Echo4oError, ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as e:
            differences.append(Difference(name, str(e)[:200], "a run that can be scored"))
            continue
        stored = json.loads(file.read_bytes()).get("scores")
        differences += compare_values(json.loads(json.dumps(scores)), stored, f"{name}: scores")
        if file.parent != folder:
            differences += _compare_tables(folder, file.parent.name, run)
        facts.append(
            {
                "place": name,
                "task": run.task,
                "judge": run.judge["model"],
                "protocol": dict(run.protocol),
                "started": run.started,
                "scores": scores,
            }
        )
    return facts, differences


def compare_values(found: object, stored: object, place: str) -> Iterator[Difference]:
    """Where two JSON values differ, most deeply named."""
    if isinstance(found, Mapping) and isinstance(stored, Mapping):
        for key in dict.fromkeys([*found, *stored]):
            yield from compare_values(found.get(key), stored.get(key), f"{place}.{key}")
    elif isinstance(found, float) and isinstance(stored, int | float):
        # Another build of numpy may round an interval's last digit otherwise.
        if not math.isclose(found, stored, rel_tol=1e-9, abs_tol=1e-12):
            yield Difference(place, str(stored), str(found))
    elif found != stored:
        yield Difference(place, str(stored)[:80], str(found)[:80])


def _compare_tables(folder: Path, name: str, run: Run) -> Iterator[Difference]:
    """Hold the rows of both tables against the run."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def read(table: str) -> list[dict[str, Any]]:
        return list(pq.read_table(folder / table / f"{name}.parquet").to_pylist())

    for table in (_RUNS, _VERDICTS):
        try:
            rows = read(table)
        except (OSError, pa.ArrowInvalid) as error:
            yield Difference(f"{table}/{name}.parquet", str(error)[:200], "the rows of the run")
            continue
        wanted = [run_row(run, name)] if table == _RUNS else [*map(verdict_row, run.verdicts)]
        if len(rows) != len(wanted):
            yield Difference(f"{table}/{name}.parquet", f"{len(rows)} rows", f"{len(wanted)} rows")
            continue
        for number, (row, want) in enumerate(zip(rows, wanted, strict=True)):
            place = f"{table}/{name}.parquet row {number}"
            # Texts of the authors' items may have been left out of either.
            same = {key: value for key, value in want.items() if key not in _TEXTS}
            there = {key: row.get(key) for key in same}
            if table == _RUNS:  # as numbers: their last digits may be written otherwise
                same["scores"] = json.loads(same["scores"])
                there["scores"] = _parsed(there["scores"])
            yield from compare_values(same, there, place)
            image = row.get("image")
            if image is not None and sha256_bytes(image["bytes"]) != row["picture_sha256"]:
                yield Difference(f"{place}.image", "another picture", "the judged picture")


def _parsed(text: object) -> object:
    """A JSON text's value, or the text itself when it is none."""
    try:
        return json.loads(str(text))
    except ValueError:
        return text
