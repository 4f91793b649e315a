"""Rows a second and peak memory of `data import` on a release of the real size.

The release is painted while it is read (release_stream.py), pictures of 64 KB; what is measured is
everything that the verb does: records, archives, hashes, join, Parquet, card, pages, record. The
painter shares the cores; its processor time is told apart, and so is what other programs took.
Beside the rate of the import stand the rates at which the same disk takes bare bytes in the same
run, past the page cache and through it. Then the first row is streamed, and the bytes of sampled
rows are held against the archive.

Run: python benchmarks/bench_import.py [--rows 178228]      (needs 25 GB of disk at full size)
Writes: benchmarks/results/import.json, or import_ROWS.json for another number of rows
"""

import argparse
import json
import mmap
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe
from memory import peak
from release_stream import PAINTED, PaintedRelease, paint, paint_pieces

from echo4o.dataset_builder.importing import import_source

ROWS = 178_228
BYTES = 64_000
LEAST_ROWS_PER_SECOND = 1_500
MOST_BYTES = 1_500_000_000
MOST_SECONDS_TO_FIRST = 2.0
RESULTS = Path(__file__).parent / "results"

# torch is imported by `datasets` when it is there, which takes seconds and is not ours to count.
# pyarrow may hang at the end of a program that leaves a stream unread (apache/arrow, issue 45214).
_FIRST = """
import json, os, sys, time
import datasets, torch
start = time.perf_counter()
rows = datasets.load_dataset(sys.argv[1], split="train", streaming=True)
row = next(iter(rows))
assert row["output_image"].size == (288, 288)
print(json.dumps(time.perf_counter() - start), flush=True)
os._exit(0)
"""


def first_row(folder: Path) -> float:
    """Seconds until the first decoded row of the result, in a fresh process."""
    command = [sys.executable, "-c", _FIRST, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout))


def check_bytes(folder: Path) -> int:
    """Pictures of every 20th row group that are byte for byte those of the archive."""
    import pyarrow.parquet as pq

    painted = {paint(seed, BYTES) for seed in range(PAINTED)}
    count = 0
    for path in sorted(folder.glob("data/*/train-*.parquet")):
        if path.parent.name == "preview":
            continue
        file = pq.ParquetFile(path)
        for group in range(0, file.num_row_groups, 20):
            table = file.read_row_group(group, columns=["output_image", "input_images"])
            for row in table.to_pylist():
                cells = [row["output_image"], *row["input_images"]]
                assert all(cell["bytes"] in painted for cell in cells)
                count += len(cells)
    return count


def disk_rate(folder: Path, *, cached: bool, size: int = 1_500_000_000) -> float:
    """Bytes a second that the disk takes in 4 MiB blocks of noise, fsync included (Linux)."""
    block = mmap.mmap(-1, 4 << 20)
    block.write(os.urandom(len(block)))
    path = folder / "bare"
    flags = os.O_WRONLY | os.O_CREAT | (0 if cached else os.O_DIRECT)
    file = os.open(path, flags)
    start = time.perf_counter()
    written = 0
    while written < size:
        written += os.write(file, block)
    os.fsync(file)
    seconds = time.perf_counter() - start
    os.close(file)
    path.unlink()
    return written / seconds


def _busy_seconds() -> float:
    """Processor time of everything on this machine since it started (Linux)."""
    fields = Path("/proc/stat").read_text().split()[1:]
    user, nice, system, _, _, interrupts, soft, stolen = map(int, fields[:8])
    ticks = user + nice + system + interrupts + soft + stolen
    return ticks / os.sysconf("SC_CLK_TCK")


def _parquet_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def _pictures(folder: Path) -> int:
    """Pictures of all rows, targets and references."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    count = 0
    for path in folder.glob("data/*/train-*.parquet"):
        if path.parent.name != "preview":
            file = pq.ParquetFile(path)
            table = file.read(columns=["input_images.list.element.path"])
            lists = table.column("input_images")
            count += table.num_rows + pc.sum(pc.list_value_length(lists)).as_py()
    return count


def main() -> None:
    """Measure; exits with a sentence when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--keep", type=Path, help="write the dataset here and leave it")
    options = parser.parse_args()
    facts = describe()
    needed, free = 2 * options.rows * BYTES, shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        sys.exit(f"{options.rows} rows need {needed} bytes of disk, {free} are free; give --rows")
    with tempfile.TemporaryDirectory(prefix="bench-import-") as temporary:
        out = options.keep or Path(temporary) / "echo-4o-image"
        pieces = Path(temporary) / "pieces"
        pieces.mkdir()
        paint_pieces(pieces, BYTES)
        source = PaintedRelease(options.rows, pieces)
        bare = disk_rate(Path(temporary), cached=False)
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        busy = _busy_seconds()
        result = import_source(source, out, progress=True)
        seconds, busy = time.perf_counter() - start, _busy_seconds() - busy
        assert result.tally.rows == source.rows
        assert not result.record.metrics["left_out"]
        used = resource.getrusage(resource.RUSAGE_SELF)
        painter = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        painted = painter.ru_utime + painter.ru_stime
        bound = _parquet_bytes(out) / bare
        found = {
            "machine": facts,
            "rows": source.rows,
            "picture_bytes": BYTES,
            "seconds": round(seconds, 1),
            "rows_per_second": round(source.rows / seconds),
            "pictures_per_second": round(_pictures(out) / seconds),
            "peak_bytes": peak(),
            "processor_seconds": round(own, 1),
            "painter_processor_seconds": round(painted, 1),
            "other_programs_processor_seconds": round(max(0.0, busy - own - painted), 1),
            "megabytes_per_second": round(_parquet_bytes(out) / seconds / 1e6),
            "parquet_bytes": _parquet_bytes(out),
            "disk_megabytes_per_second": round(bare / 1e6),
            "disk_megabytes_per_second_cached": round(
                disk_rate(Path(temporary), cached=True) / 1e6
            ),
            "disk_seconds": round(bound, 1),
            "largest_file": max(path.stat().st_size for path in out.rglob("*")),
            "first_row_seconds": round(first_row(out), 2),
            "pictures_compared": check_bytes(out),
        }
    # A part of the release says less than all of it, and does not replace it.
    name = "import.json" if options.rows == ROWS else f"import_{options.rows}.json"
    (RESULTS / name).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    if found["rows_per_second"] < LEAST_ROWS_PER_SECOND:
        sys.exit(f"{found['rows_per_second']} rows/s, at least {LEAST_ROWS_PER_SECOND} are wanted")
    if found["peak_bytes"] > MOST_BYTES:
        sys.exit(f"{found['peak_bytes']} bytes of memory, at most {MOST_BYTES} are wanted")
    if found["first_row_seconds"] > MOST_SECONDS_TO_FIRST:
        sys.exit(f"the first row took {found['first_row_seconds']} s")


if __name__ == "__main__":
    main()
