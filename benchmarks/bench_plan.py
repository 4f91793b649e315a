"""Seconds and memory that planning takes, with decontamination by generated items.

Run: python benchmarks/bench_plan.py [--rows 178228]
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

from echo4o.dataset_builder.drafts import draft, released_rows
from echo4o.dataset_builder.planning import Request, write

ITEMS = 500


def write_items(path: Path) -> Path:
    """Benchmark items of both forms: rows of another seed, half with facts, half with text."""
    rows = draft("echo4o_image", rows=3 * ITEMS, seed=999).rows
    texts = [row for row in rows if row.subset != "multi_reference"][:ITEMS]
    lines = [
        {"instruction": row.instruction}
        if row.subset == "surreal_fantasy"
        else {"include": row.constraints["include"]}
        for row in texts
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def main() -> None:
    """Plan once; print and write benchmarks/results/plan.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=released_rows("echo4o_image"))
    rows = parser.parse_args().rows
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        items = write_items(Path(folder) / "items.jsonl")
        wall, processor = time.perf_counter(), time.process_time()
        done = write(Request(recipe="echo4o_image", rows=rows, against=(items,)), Path(folder))
        result = {
            "rows": done.rows,
            "references": done.references,
            "seconds": round(time.perf_counter() - wall, 1),
            "processor_seconds": round(time.process_time() - processor, 1),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "plan_mb": round((Path(folder) / "plan.jsonl").stat().st_size / 1e6, 1),
            "items": ITEMS,
            "dropped": done.dropped,
            "combinations": done.coverage.get("combinations"),
            "machine": platform.processor() or platform.machine(),
            "load_at_start": round(load, 1),
        }
    text = json.dumps(result, indent=1)
    print(text)
    (Path(__file__).parent / "results/plan.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
