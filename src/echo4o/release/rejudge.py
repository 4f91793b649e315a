"""Asks the judge again about a sample of the judged pictures; this costs calls."""

import json
from pathlib import Path
from typing import Any

from ..cli import explain, run_verb
from ..records import write_atomic
from .table import Table

SAMPLE = 20
LEAST_AGREEMENT = 0.9
"""A judge at temperature 0 is not quite the same twice."""


def check_judge(results: Path, name: str, out: Path, table: Table) -> None:
    """Judge a sample of every run's stored pictures again and count equal verdicts.

    Args:
        results: The downloaded results dataset; its files have been checked.
        name: What the table calls it.
        out: Folder for the new runs.
        table: Gets the rows.
    """
    import pyarrow.parquet as pq

    for file in sorted(results.glob("runs/*/run.json")):
        run, label = json.loads(file.read_bytes()), file.parent.name
        path = results / "data/verdicts" / f"{label}.parquet"
        columns = ["number", "sample", "repeat", "outcome", "correct", "image"]
        rows = [
            row
            for row in pq.read_table(path, columns=columns).to_pylist()
            if row["image"] and row["outcome"] == "judged" and row["sample"] == row["repeat"] == 1
        ]
        chosen = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE]
        if not chosen:
            table.bad(name, f"judge again: {label}", "no stored picture", "judged pictures")
            continue
        pictures = out / "again" / label / "pictures"
        for row in chosen:
            write_atomic(pictures / f"{row['number']}.png", row["image"]["bytes"])
        try:
            verdicts = _judge(run, pictures, out / "again" / label / "run")
        except Exception as error:
            said = explain(error) or repr(error)
            table.bad(name, f"judge again: {label}", said[:300], "a judge that answers")
            continue
        equal = sum(verdicts.get(row["number"]) == row["correct"] for row in chosen)
        least = int(LEAST_AGREEMENT * len(chosen))
        told = f"{equal} of {len(chosen)} verdicts equal"
        add = table.good if equal >= least else table.bad
        add(name, f"judge again: {label}", told, f"at least {least}")


def _judge(run: dict[str, Any], pictures: Path, out: Path) -> dict[int, bool]:
    words = [run["task"], "--images", str(pictures), "--out", str(out), "--no-canary"]
    words += ["--items", run["items"]["source"], "--protocol", run["protocol"]["name"]]
    run_verb("eval", "judge", [*words, "--judge", run["judge"]["model"]])
    judged = json.loads((out / "run.json").read_bytes())["verdicts"]
    return {one["number"]: one["correct"] for one in judged}
