"""How soon the explorer shows a release of the real size, and how much memory it takes.

The release has 178,228 rows in the authors' proportions (release_stream.py) and pictures of 24 KB:
what is read does not depend on their size, because a picture is read from its own Parquet page. The
Space runs as a user starts it; a real client waits for the first page and for the whole index, and
then asks for random pages, rows and searches. Memory is that of the Space's process.

Run: python benchmarks/bench_explore.py [--folder DATASET]   (else paints one: 8 GB, minutes)
Writes: benchmarks/results/explore.json
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from gradio_client import Client
from machine import describe
from release_stream import PaintedRelease, paint_pieces

from echo4o.dataset_builder.importing import import_source

ROWS, BYTES, REQUESTS = 178_228, 24_000, 100
MOST_SECONDS, MOST_GROWTH = 5.0, 100_000_000
RESULTS = Path(__file__).parent / "results/explore.json"
WORDS = (
    "scene 12",
    '"a photo of" hard',
    "combine number 7",
    "thing",
    "multi_reference-obj_obj-00042",
)


def painted(folder: Path) -> Path:
    """A release of the real size."""
    pieces, out = folder / "pieces", folder / "echo-4o-image"
    pieces.mkdir()
    paint_pieces(pieces, BYTES)
    import_source(PaintedRelease(ROWS, pieces), out, progress=True)
    return out


def start(dataset: Path, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """`echo4o space run explore`, and its address once it answers."""
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "echo4o.cli", "space", "run", "explore", "--port", "0"]
    command += ["--dataset", str(dataset), "--ready-file", str(ready)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    while not ready.exists():
        if process.poll() is not None:
            sys.exit((folder / "log").read_text())
        time.sleep(0.02)
    return process, json.loads(ready.read_text())["url"]


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its seconds."""
    begun = time.perf_counter()
    return call(), time.perf_counter() - begun


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile in milliseconds."""
    return {
        "median_ms": round(1e3 * statistics.median(seconds)),
        "p95_ms": round(1e3 * sorted(seconds)[int(0.95 * len(seconds))]),
    }


def ask(client: Client, total: int) -> dict[str, Any]:
    """Random pages, rows with pictures, shuffled pages and searches."""
    draw, found = random.Random(0), {name: [] for name in ("page", "row", "shuffled", "search")}
    for number in range(REQUESTS // 4):
        page = draw.randrange(1, total // 24)
        listed, seconds = timed(lambda page=page: client.predict(page=page, api_name="/rows"))
        found["page"].append(seconds)
        row_id = draw.choice(listed["rows"])["id"]
        row, seconds = timed(lambda row_id=row_id: client.predict(row_id, api_name="/row"))
        assert row["picture"]["url"], row["picture"]
        found["row"].append(seconds)
        call = {"seed": number + 1, "page": page, "api_name": "/rows"}
        found["shuffled"].append(timed(lambda call=call: client.predict(**call))[1])
        word = WORDS[number % len(WORDS)]
        found["search"].append(timed(lambda word=word: client.predict(word, api_name="/search"))[1])
    return {name: spread(seconds) for name, seconds in found.items()}


def main() -> None:
    """Measure; exits with a sentence when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a dataset that exists")
    options = parser.parse_args()
    facts = describe()
    with tempfile.TemporaryDirectory(prefix="bench-explore-") as temporary:
        folder = Path(temporary)
        dataset = options.folder or painted(folder)
        begun = time.perf_counter()
        process, url = start(dataset, folder)
        up = time.perf_counter() - begun
        app = psutil.Process(process.pid).children()[0]
        client = Client(url, verbose=False)
        first, wait = timed(lambda: client.predict(api_name="/rows"))
        while not client.predict(size=1, api_name="/rows")["complete"]:
            time.sleep(0.1)
        whole, memory = time.perf_counter() - begun, app.memory_info().rss
        total = client.predict(size=1, api_name="/rows")["total"]
        answers = ask(client, total)
        after = app.memory_info().rss
        answers_again = ask(client, total)
        found = {
            "machine": facts,
            "rows": total,
            "parquet_bytes": sum(file.stat().st_size for file in dataset.rglob("*.parquet")),
            "seconds_to_page": round(up, 2),
            "seconds_of_first_rows": round(wait, 2),
            "seconds_to_whole_index": round(whole, 2),
            "first_rows": len(first["rows"]),
            "rss_after_index": memory,
            "rss_after_requests": after,
            "rss_after_twice_as_many": app.memory_info().rss,
            "requests": {"first": answers, "second": answers_again},
        }
        client.close()
        process.terminate()
        process.wait()
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    if found["seconds_of_first_rows"] > MOST_SECONDS:
        sys.exit(f"the first rows took {wait:.1f} s, at most {MOST_SECONDS} are wanted")
    grown = found["rss_after_twice_as_many"] - after
    if grown > MOST_GROWTH:
        sys.exit(f"memory grew by {grown} bytes over the second round of requests")


if __name__ == "__main__":
    main()
