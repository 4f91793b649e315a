"""Seconds and memory that a plan of the whole release takes to be checked and gone through.

Run: python benchmarks/bench_plan_reading.py [--rows 178228] [--folder PLAN]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import memory
from machine import describe

from echo4o.dataset_builder.drafts import released_rows
from echo4o.dataset_builder.plan import read_plan
from echo4o.dataset_builder.planning import Request, write


def main() -> None:
    """Read a plan; print and write benchmarks/results/plan_reading.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=released_rows("echo4o_image"))
    parser.add_argument("--folder", type=Path, help="a plan that was made before")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder
        if folder is None:
            folder = Path(name)
            write(Request(recipe="echo4o_image", rows=args.rows), folder)
        result = {"machine": describe()} | measure(folder)
    text = json.dumps(result, indent=1)
    print(text)
    (Path(__file__).parent / "results/plan_reading.json").write_text(text + "\n")


def measure(folder: Path) -> dict[str, float]:
    """Seconds of processor time, and megabytes beyond what the process had before."""
    memory.reset_peak()
    before = memory.resident()
    clock = time.process_time()
    plan, _ = read_plan(folder)
    checked = time.process_time() - clock
    clock = time.process_time()
    rows = sum(1 for _ in plan.rows)
    return {
        "rows": rows,
        "references": len(plan.references),
        "seconds_to_check": round(checked, 2),
        "seconds_to_go_through": round(time.process_time() - clock, 2),
        "mb_beyond_start": round((memory.peak() - before) / 1e6, 1),
    }


if __name__ == "__main__":
    main()
