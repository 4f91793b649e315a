"""Rows a second and peak memory of `data export` in each of the three forms.

Each export runs in a fresh process on a dataset of 20,000 rows with pictures of 16 KB, made once
from a painted release (release_stream.py).

Run: python benchmarks/bench_export.py [--rows 20000]
Writes: benchmarks/results/export.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe
from memory import peak
from release_stream import PaintedRelease, paint_pieces

from echo4o.dataset_builder.exporting import export
from echo4o.dataset_builder.importing import import_source

ROWS = 20_000
BYTES = 16_000
RESULTS = Path(__file__).parent / "results/export.json"


def export_once(dataset: str, form: str, out: str) -> dict[str, float]:
    """One export in this process."""
    start = time.perf_counter()
    done = export(dataset, form, Path(out))
    seconds = time.perf_counter() - start
    rows = done.rows.total()
    return {
        "rows": rows,
        "left_out": done.left_out.total(),
        "seconds": round(seconds, 1),
        "rows_per_second": round((rows + done.left_out.total()) / seconds),
        "peak_bytes": peak(),
    }


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(export_once(*options.one)))
        return
    results: dict[str, object] = {"machine": describe(), "picture_bytes": BYTES}
    with tempfile.TemporaryDirectory(prefix="bench-export-") as temporary:
        pieces = Path(temporary) / "pieces"
        pieces.mkdir()
        paint_pieces(pieces, BYTES)
        dataset = Path(temporary) / "echo-4o-image"
        import_source(PaintedRelease(options.rows, pieces), dataset)
        for form in ("omnigen2", "blip3o", "bagel"):
            command = [sys.executable, __file__, "--one", str(dataset), form]
            command.append(str(Path(temporary) / form))
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[form] = json.loads(done.stdout.splitlines()[-1])
            print(form, results[form], flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
