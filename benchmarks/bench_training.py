"""Seconds of a forward and backward pass over one pack, beside the arithmetic it cannot avoid.

The model is the one of `bench_inference` in fp32. The pack of 1,804 tokens holds a row with two
references, a text-to-image row and a text to be written, so that every part of the model learns.

Run: python benchmarks/bench_training.py [--threads 1] [--repeats 5] [--profile]
Writes: benchmarks/results/training.json
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from arithmetic import Counter, Part, matrix_rate, performed
from machine import describe
from random_pipeline import SMALL, make_pipeline

from echo4o.models.bagel import (
    BagelConfig,
    BagelForUnifiedGeneration,
    PackedBatch,
    TextSegment,
    VaeSegment,
    VitSegment,
    pack,
)
from echo4o.models.bagel.packing import Sample

TOKENS, LATENTS, WORDS = 1804, 16**2, 40
AUTHORS_SECONDS = 2.11
"""What the authors' code needed with one thread on a machine of this class."""
RESULTS = Path(__file__).parent / "results/training.json"


def make_batch(config: BagelConfig) -> PackedBatch:
    """The pack of the bench."""
    draw = torch.Generator().manual_seed(0)
    side, patches = 2 * 16, config.vit_patch_size * config.vit_max_num_patch_per_side

    def words(count: int, *, loss: bool = False) -> TextSegment:
        return TextSegment(torch.randint(250, (count,), generator=draw).tolist(), loss=loss)

    def latent(*, noised: bool) -> VaeSegment:
        values = torch.randn(config.latent_channels, side, side, generator=draw)
        return VaeSegment(values, noised=noised)

    def seen() -> VitSegment:
        return VitSegment(torch.rand(3, patches, patches, generator=draw) * 2 - 1)

    references = [latent(noised=False), seen(), latent(noised=False), seen()]
    samples: list[Sample] = [
        [*references, words(WORDS), latent(noised=True)],
        [words(WORDS), latent(noised=True)],
    ]
    rest = TOKENS - pack(samples, config).num_tokens
    batch = pack([*samples, [words(rest - 2, loss=True)]], config)
    assert batch.num_tokens == TOKENS
    return batch


def unavoidable(config: BagelConfig) -> int:
    """Multiply-adds of the pack of `make_batch`."""
    counter, text = Counter(config), Part(WORDS + 2, causal=True)
    target = Part(LATENTS + 2, LATENTS, latents=LATENTS)
    patches = config.vit_max_num_patch_per_side**2
    seen = Part(patches + 2, patches=patches)
    references = [Part(LATENTS + 2, latents=LATENTS), seen] * 2
    rest = TOKENS - sum(part.tokens for part in [*references, text, target, text, target])
    written = Part(rest, rest - 1, causal=True, words=True)
    return counter.training([[*references, text, target], [text, target], [written]])


def make_step(model: BagelForUnifiedGeneration, batch: PackedBatch) -> Callable[[], None]:
    """Forward, loss and backward of one pack; gradients are dropped."""
    draw = torch.Generator().manual_seed(1)
    times = torch.rand(batch.num_noised, generator=draw)
    noise = torch.randn(batch.latents.shape, generator=draw)

    def step() -> None:
        output = model(batch, timesteps=times, noise=noise)
        assert output.mse is not None
        assert output.ce is not None
        (output.mse.mean() + output.ce.mean()).backward()
        model.zero_grad(set_to_none=True)

    return step


def measure(step: Callable[[], None], least: int, threads: int, repeats: int) -> dict[str, Any]:
    """Times of the step, and how close it comes to what the machine could do."""
    torch.set_num_threads(threads)
    done = performed(step)  # also warms up
    rates, walls, processes = [], [], []
    for _ in range(repeats):
        rates.append(matrix_rate())
        wall, process = time.perf_counter(), time.process_time()
        step()
        walls.append(time.perf_counter() - wall)
        processes.append(time.process_time() - process)
    floor = least / max(rates)
    return {
        "seconds": round(min(walls), 3),
        "seconds_median": round(statistics.median(walls), 3),
        "process_seconds": round(min(processes), 3),
        "tokens_per_second": round(TOKENS / min(walls)),
        "unavoidable_gmac": round(least / 1e9, 2),
        "performed_gmac": round(done / 1e9, 2),
        "performed_over_unavoidable": round(done / least, 3),
        "matrix_rate_gflops": round(2 * max(rates) / 1e9, 1),
        "floor_seconds": round(floor, 3),
        "share_of_matrix_rate": round(floor / min(walls), 3),
        "authors_seconds_one_thread": AUTHORS_SECONDS,
        "times_faster_wall": round(AUTHORS_SECONDS / min(walls), 2),
        "times_faster_process": round(AUTHORS_SECONDS * threads / min(processes), 2),
    }


def main() -> None:
    """Measure, or profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads[0])
    model = make_pipeline().model.train()
    step = make_step(model, make_batch(model.config))
    if args.profile:
        step()
        with torch.profiler.profile() as profile:
            step()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=30))
        return
    results: dict[str, Any] = {"machine": describe(), "size": SMALL, "tokens": TOKENS}
    for threads in args.threads:
        key = f"forward_and_backward, {threads} thread{'s' * (threads > 1)}"
        results[key] = measure(step, unavoidable(model.config), threads, args.repeats)
    text = json.dumps(results, indent=1)
    print(text)
    RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main()
