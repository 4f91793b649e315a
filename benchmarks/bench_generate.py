"""Pictures a second of `data generate` against a bare AsyncOpenAI loop that keeps nothing.

200 ms latency, 64 calls at once, PNG pictures of 20 KB painted beforehand; server and client are
two processes on this machine. Generate keeps everything: reserved and settled in the ledger, each
picture hashed, on the disk and flushed. The two take turns, several times; the figure is the ratio
of the medians. A sequential client is measured for comparison.

Run: python benchmarks/bench_generate.py [--rows 2000] [--rounds 3]
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import openai
from machine import describe
from PIL import Image

from echo4o.dataset_builder.generate import Api, Settings, generate
from echo4o.dataset_builder.plan import Entry, Plan, write_plan

LATENCY_S = 0.2
CONCURRENCY = 64
SEQUENTIAL = 20
PICTURES = 50


def main() -> None:
    """Measure; write benchmarks/results/generate.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    machine = describe()
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as (url, size):
        os.environ |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "bench"}
        bare, kept = [], []
        asyncio.run(bare_loop(200, CONCURRENCY))
        for number in range(args.rounds):
            bare.append(args.rows / asyncio.run(bare_loop(args.rows, CONCURRENCY)))
            folder = Path(name) / f"work{number}"
            write_plan(folder, [rows(args.rows, number).to_text()], may_replace=True)
            clock = time.perf_counter()
            done = generate(
                folder, Settings(model="sandbox-image", size="64x64"), Api(concurrency=CONCURRENCY)
            )
            kept.append(args.rows / (time.perf_counter() - clock))
            assert done.outcomes == {"done": args.rows}, done
            print(f"bare {bare[-1]:.0f}/s, generate {kept[-1]:.0f}/s", flush=True)
        alone = SEQUENTIAL / asyncio.run(bare_loop(SEQUENTIAL, 1))
    results = {
        "machine": machine,
        "rows": args.rows,
        "picture_bytes": size,
        "bare_per_second": [round(one, 1) for one in bare],
        "generate_per_second": [round(one, 1) for one in kept],
        "share_of_bare": round(statistics.median(kept) / statistics.median(bare), 3),
        "times_a_sequential_client": round(statistics.median(kept) / alone, 1),
        "no_faster_than": CONCURRENCY / LATENCY_S,
    }
    print(json.dumps(results, indent=1))
    (Path(__file__).parent / "results/generate.json").write_text(
        json.dumps(results, indent=1) + "\n"
    )


def rows(count: int, seed: int) -> Plan:
    """A plan of pictures without references."""
    entries = [
        Entry(
            kind="row",
            id=f"row-{seed}-{number:06d}",
            prompt=f"A photo of {number} red circles, run {seed}",
            instruction=f"A photo of {number} red circles, run {seed}",
            subset="instruction_following",
            category="easy",
            constraints={},
        )
        for number in range(count)
    ]
    return Plan(recipe="shapes", seed=seed, references=(), rows=tuple(entries))


async def bare_loop(count: int, concurrency: int) -> float:
    """Seconds for `count` pictures, decoded and dropped."""
    gate = asyncio.Semaphore(concurrency)
    async with openai.AsyncOpenAI(max_retries=0) as client:

        async def one(number: int) -> None:
            async with gate:
                reply = await client.images.generate(
                    model="sandbox-image", prompt=f"picture {number}", size="64x64"
                )
                base64.b64decode(reply.data[0].b64_json)

        clock = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(count)))
        return time.perf_counter() - clock


@contextlib.contextmanager
def serving(root: Path) -> Iterator[tuple[str, int]]:
    """The address of a server with painted pictures, and their mean size in bytes."""
    names, sizes = [], []
    for number in range(PICTURES):
        buffer = io.BytesIO()
        Image.effect_noise((140, 140), 60 + number).save(buffer, "PNG")
        names.append(str(root / f"{number}.png"))
        Path(names[-1]).write_bytes(buffer.getvalue())
        sizes.append(len(buffer.getvalue()))
    command = [sys.executable, str(Path(__file__).with_name("serve_pictures.py")), str(LATENCY_S)]
    server = subprocess.Popen([*command, *names], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        yield f"http://127.0.0.1:{port}/v1", round(statistics.mean(sizes))
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
