"""Seconds per picture and answer, memory and cold start of a small random model on the CPU.

The size is `random_pipeline.SMALL`: 256 x 256 px, 19 steps, guidance 4. Every mode is timed beside
the arithmetic it cannot avoid and the rate at which this machine multiplies matrices. Where other
processes share the machine, process time says more than wall time; both are kept, best and median.

Every mode is timed as people get it, with the compiled kernels of `native.py` where this machine
can have them, and without them.

Run: python benchmarks/bench_inference.py [--threads 1 2] [--repeats 5] [--modes MODE ...]
     [--kernels compiled torch] [--profile MODE]
Writes: benchmarks/results/inference.json
"""

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from arithmetic import (
    Counter,
    Stretch,
    decoding,
    encoding,
    matrix_rate,
    performed,
    sustained_rate,
)
from machine import describe
from memory import peak, reset_peak, resident
from PIL import Image
from random_pipeline import SMALL, load, make_pipeline

from echo4o import Echo4oPipeline
from echo4o.models import native
from echo4o.models.bagel.conditioning import Conditioner
from echo4o.models.bagel.generation import decode_tokens
from echo4o.sampler import Guidance, shift_times, sigma_grid

SIDE, STEPS, TOKENS = 256, 19, 64
PROMPT = "a photo of a red cube that stands on a blue ball"
RESULTS = Path(__file__).parent / "results/inference.json"


class Mode(NamedTuple):
    """One thing to time."""

    run: Callable[[], Any]
    unavoidable: int
    """Multiply-adds."""
    authors_seconds: float | None = None
    """What the authors' code needed with one thread on a machine of this class."""
    tokens: int = 0
    """Tokens it writes."""


def pictures(count: int) -> list[Image.Image]:
    """Noise in the size of the references."""
    draw = np.random.default_rng(0)
    return [
        Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        for _ in range(count)
    ]


def make_modes(pipe: Echo4oPipeline) -> dict[str, Mode]:
    """All modes with the work they cannot avoid."""
    counter, config = Counter(pipe.model.config), pipe.model.config
    latents, patches = (SIDE // 16) ** 2, config.vit_max_num_patch_per_side**2
    times = shift_times(torch.tensor(sigma_grid(STEPS)), 3.0).tolist()
    text = len(pipe.tokenizer(PROMPT)["input_ids"]) + 2
    decode, encode = decoding(pipe.vae, SIDE), encoding(pipe.vae, SIDE)
    look = [Stretch(patches + 2, False, patches)]
    reference = [Stretch(latents + 2, False), *look]
    cond = 2 * sum(part.tokens for part in reference) + text
    words = [Stretch(text, True)]
    references, latent = pictures(2), torch.randn(1, latents, config.latent_dim)
    plain = counter.denoising(latents, text, 0, text, times, Guidance())
    guided = Guidance(image_scale=2.0, interval=(0.0, 1.0), renorm="text_channel")
    edit = counter.denoising(latents, cond, cond - text, text, times, guided)

    return {
        "text_to_image": Mode(lambda: picture(pipe), counter.context(words) + plain + decode, 2.44),
        "two_references": Mode(
            lambda: picture(pipe, references),
            counter.context([*reference * 2, *words])
            + counter.context(words)
            + 2 * encode
            + edit
            + decode,
            4.54,
        ),
        "understand_64_tokens": Mode(
            lambda: answer(pipe, references[0]),
            counter.context([*look, *words]) + counter.writing(TOKENS, patches + 2 + text),
            0.58,
            TOKENS,
        ),
        "decode_one_picture": Mode(
            lambda: pipe.decode_latents(latent, (SIDE // 16,) * 2), decode, 0.29
        ),
    }


def picture(pipe: Echo4oPipeline, references: list[Image.Image] | None = None, **more: Any) -> Any:
    """One picture of the bench."""
    seed = torch.Generator().manual_seed(0)
    size = {"height": SIDE, "width": SIDE, "num_inference_steps": STEPS}
    return pipe(PROMPT, references, generator=seed, **size, **more).images[0]


def answer(pipe: Echo4oPipeline, picture: Image.Image) -> list[int]:
    """Write exactly TOKENS tokens about a picture, whatever the random model says."""
    conditioner = Conditioner(pipe.model, pipe.vae, pipe.tokenizer)
    (branches,) = conditioner.encode([[picture, PROMPT]], with_latents=False)
    tokens = [t for t, _ in decode_tokens(pipe.model, branches.cond, max_new_tokens=TOKENS)]
    assert len(tokens) == TOKENS, "the random model closed its answer: choose another seed"
    return tokens


class Timed(NamedTuple):
    """Seconds of one call and what it returned."""

    wall: float
    process: float
    result: Any


def timed(run: Callable[[], Any]) -> Timed:
    """Wall and process seconds of one call."""
    wall, process = time.perf_counter(), time.process_time()
    result = run()
    return Timed(time.perf_counter() - wall, time.process_time() - process, result)


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """As on a machine that cannot compile them."""
    with mock.patch.object(native, "kernels", return_value=None):
        yield


def measure(mode: Mode, threads: int, repeats: int) -> dict[str, Any]:
    """Times of one mode, and how close it comes to what the machine could do."""
    done = performed(mode.run)  # also warms up
    rates, steady, walls, processes = [], [], [], []
    for _ in range(repeats):
        rates.append(matrix_rate())
        steady.append(sustained_rate())
        took = timed(mode.run)
        walls.append(took.wall)
        processes.append(took.process)
    rate = max(rates)
    floor, reachable = mode.unavoidable / rate, mode.unavoidable / max(steady)
    result = {
        "seconds": round(min(walls), 3),
        "seconds_median": round(statistics.median(walls), 3),
        "process_seconds": round(min(processes), 3),
        "process_seconds_median": round(statistics.median(processes), 3),
        "unavoidable_gmac": round(mode.unavoidable / 1e9, 2),
        "performed_gmac": round(done / 1e9, 2),
        "performed_over_unavoidable": round(done / mode.unavoidable, 3),
        "matrix_rate_gflops": round(2 * rate / 1e9, 1),
        "matrix_rate_gflops_sustained": round(2 * max(steady) / 1e9, 1),
        "floor_seconds": round(floor, 3),
        "floor_seconds_at_sustained_rate": round(reachable, 3),
        "share_of_matrix_rate": round(floor / min(walls), 3),
        "share_of_matrix_rate_in_process_time": round(floor * threads / min(processes), 3),
    }
    if mode.tokens:
        result["tokens_per_second"] = round(mode.tokens / min(walls), 1)
    if mode.authors_seconds is not None:
        result["authors_seconds_one_thread"] = mode.authors_seconds
        result["times_faster_wall"] = round(mode.authors_seconds / min(walls), 2)
        result["times_faster_process"] = round(mode.authors_seconds * threads / min(processes), 2)
    return result


def measure_cache(
    pipe: Echo4oPipeline, references: list[Image.Image] | None, repeats: int
) -> dict[str, Any]:
    """Speed-up and error of the step cache against the exact picture, one after the other."""
    ratios, made = [], {}
    for cached in (False, True) * (1 + repeats):
        if cached:
            pipe.enable_cache()
        made[cached] = timed(lambda: picture(pipe, references, output_type="np"))
        pipe.disable_cache()
        if cached:
            ratios.append(made[False].process / made[True].process)
    error = np.abs(made[True].result - made[False].result)
    return {
        "times_faster_than_exact": round(statistics.median(ratios[1:]), 2),
        "relative_error": round(
            float(np.linalg.norm(error) / np.linalg.norm(made[False].result)), 5
        ),
        "mean_grey_levels_off": round(float(255 * error.mean()), 3),
        "largest_grey_levels_off": round(float(255 * error.max()), 2),
    }


def cold_start(folder: Path) -> dict[str, float]:
    """From the start of the interpreter to the first picture."""
    start = time.perf_counter()
    facts = in_a_fresh_process("cold_start", folder, "stored")
    return {"seconds": round(time.perf_counter() - start, 2), **facts}


def in_a_fresh_process(what: str, folder: Path, precision: str) -> dict[str, float]:
    """Run one of `CHILDREN` after nothing but the imports."""
    command = [sys.executable, __file__, "--child", what, str(folder), precision]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def first_picture(folder: str, precision: str) -> dict[str, float]:
    """Load and make one picture; process seconds since the interpreter started."""
    pipe = load(folder, precision)
    loaded = time.process_time()
    picture(pipe)
    done = time.process_time()
    return {"process_seconds": round(done, 2), "process_seconds_to_load": round(loaded, 2)}


def peak_memory(folder: str, precision: str) -> dict[str, float]:
    """Growth over the imports: after loading, and at the peak of one picture."""
    torch.set_num_threads(1)
    before = resident()
    pipe = load(folder, precision)
    loaded = resident() - before
    reset_peak()
    process = time.process_time()
    picture(pipe)
    return {
        "loaded_mb": round(loaded / 1e6),
        "peak_mb": round((peak() - before) / 1e6),
        "first_picture_process_seconds": round(time.process_time() - process, 2),
    }


CHILDREN = {"cold_start": first_picture, "peak_memory": peak_memory}


def measure_all(
    threads: Sequence[int], repeats: int, kernels: Sequence[str], wanted: Sequence[str]
) -> dict[str, Any]:
    """All figures, or those of some modes."""
    pipe = make_pipeline()
    results: dict[str, Any] = {"machine": describe(), "size": SMALL, "steps": STEPS}
    results["about_the_times"] = (
        "best of the repeats, the median beside it; other processes used the machine, so that wall "
        "time contains waiting and process time does not; the matrix rate was taken in between"
    )
    for count in threads:
        torch.set_num_threads(count)
        modes = {
            name: mode for name, mode in make_modes(pipe).items() if name in wanted or not wanted
        }
        for kernel, (name, mode) in itertools.product(kernels, modes.items()):
            key = f"{name}{', no kernels' * (kernel == 'torch')}, {count} thread{'s' * (count > 1)}"
            with without_kernels() if kernel == "torch" else contextlib.nullcontext():
                results[key] = measure(mode, count, repeats)
            print(key, json.dumps(results[key]), flush=True)
    if wanted:
        return results
    torch.set_num_threads(1)
    for name, given in (("text_to_image", None), ("two_references", pictures(2))):
        results[f"{name}, step cache"] = measure_cache(pipe, given, repeats)
    with tempfile.TemporaryDirectory() as name:
        pipe.save_pretrained(name)
        results["cold_start"] = cold_start(Path(name))
        for precision in ("fp32", "bf16", "int8"):
            results[f"memory_{precision}"] = in_a_fresh_process(
                "peak_memory", Path(name), precision
            )
    return results


def main() -> None:
    """Measure everything, or profile one mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--modes", nargs="+", default=[], help="only these; nothing is written")
    both = ["compiled", "torch"] if native.kernels() else ["torch"]
    parser.add_argument("--kernels", nargs="+", choices=both, default=both)
    parser.add_argument("--profile", metavar="MODE")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, folder, precision = args.child
        print(json.dumps(CHILDREN[what](folder, precision)))
        return
    if args.profile:
        torch.set_num_threads(args.threads[0])
        pipe = make_pipeline()
        mode = make_modes(pipe)[args.profile]
        with without_kernels() if args.kernels[0] == "torch" else contextlib.nullcontext():
            mode.run()
            with torch.profiler.profile() as profile:
                mode.run()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
        return
    results = measure_all(args.threads, args.repeats, args.kernels, args.modes)
    if args.modes:
        return
    text = json.dumps(results, indent=1)
    print(text)
    RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    with torch.no_grad():
        main()
