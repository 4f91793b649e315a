"""Steps per second of the recipe `tiny` at 256 px, with and without `train cache`.

Rows have two references each. With --flux the autoencoder has the published width (random weights):
its share of a step is then as in the recipes for BAGEL-7B, though the rest is still small.

A cache can save what encoding costs and no more. So the file also has the time that a step's
products would need at the speed of a large one, the ratio if a step took no longer than that, and
of which operations a step consists with the cache.

Run: OMP_NUM_THREADS=1 python benchmarks/bench_latent_cache.py [--flux] [--draws 1] [--out FILE]
"""

import argparse
import io
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unittest.mock import patch

import datasets
import numpy as np
import torch
from diffusers import AutoencoderKL
from machine import describe
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from echo4o import schema
from echo4o.training.caching import fill_store
from echo4o.training.config import TrainConfig
from echo4o.training.overrides import override
from echo4o.training.recipes import tiny
from echo4o.training.results import StepFacts
from echo4o.training.train import train
from echo4o.training.watching import Watch


def picture(rng: np.random.Generator) -> dict[str, object]:
    """A smooth picture of 256 px as PNG."""
    small = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((256, 256), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": "x.png"}


def write_rows(folder: Path, count: int) -> None:
    """A dataset folder with one config."""
    rng = np.random.default_rng(0)
    columns = {
        "id": [f"row-{n}" for n in range(count)],
        "instruction": [f"put image 1 on image 2, number {n}" for n in range(count)],
        "input_images": [[picture(rng), picture(rng)] for _ in range(count)],
        "output_image": [picture(rng) for _ in range(count)],
    }
    features = {name: schema.features()[name] for name in columns}
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    folder.mkdir(parents=True)
    data.to_parquet(folder / "train.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  data_files:\n  - split: train\n"
        "    path: train.parquet\n---\n"
    )


def flux_autoencoder(folder: Path) -> None:
    """Random weights in the published structure."""
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder)


class Run(NamedTuple):
    """What a run of some steps showed; its first step, which warms up, is not timed."""

    wall: float
    """Seconds of a step, median."""
    cpu: float
    """Seconds of all processors for a step, median: the same on a busy machine."""
    tokens: int
    """Of the last step."""
    flops: float
    """Of the last step."""
    losses: list[float]


class Clock(Watch):
    """Notes when steps end."""

    ends: list[tuple[float, float, StepFacts]] = []

    def step(self, step: int, facts: StepFacts, rate: float) -> None:
        """Note, and go on."""
        self.ends.append((time.perf_counter(), time.process_time(), facts))
        super().step(step, facts, rate)


def measure(config: TrainConfig, out: Path) -> Run:
    """Train, and time the steps behind the first."""
    Clock.ends.clear()
    with patch("echo4o.training.train.Watch", Clock):
        train(config, out)
    pairs = list(zip(Clock.ends, Clock.ends[1:], strict=False))
    facts = Clock.ends[-1][2]
    lines = (out / "loss.jsonl").read_text().splitlines()
    return Run(
        wall=statistics.median(b[0] - a[0] for a, b in pairs),
        cpu=statistics.median(b[1] - a[1] for a, b in pairs),
        tokens=facts.tokens,
        flops=facts.flops,
        losses=[json.loads(line)["loss"] for line in lines],
    )


def shares(config: TrainConfig, out: Path) -> dict[str, float]:
    """Shares of the processor time of two steps by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        train(config, out)
    found: Counter[str] = Counter()
    for event in seen.key_averages():
        found[_kind(event.key)] += event.self_cpu_time_total
    return {kind: round(time / found.total(), 3) for kind, time in found.most_common()}


def _kind(operation: str) -> str:
    if "scaled_dot_product" in operation:
        return "attention"
    if operation in ("aten::mm", "aten::addmm", "aten::bmm", "aten::addmm_"):
        return "matrix products"
    if "conv" in operation:
        return "convolutions"
    return "reading rows" if "DataLoader" in operation else "everything else"


def product_speed() -> float:
    """Operations of a matrix product in a second of the processor, the best of some."""
    one, best = torch.ones(768, 768), float("inf")
    for _ in range(20):
        began = time.process_time()
        _ = one @ one
        best = min(best, time.process_time() - began)
    return 2 * 768**3 / best


def main() -> None:
    """Print, and perhaps write, the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flux", action="store_true")
    parser.add_argument("--draws", type=int, default=tiny().noise_draws, help="as the recipe")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed, and one more")
    parser.add_argument("--rows", type=int, default=4, help="rows of a step")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with TemporaryDirectory() as name:
        root = Path(name)
        count = args.rows * 2
        write_rows(root / "rows", count)
        words = [f"data={root / 'rows'}", f"latent_store={root / 'store'}", "latent_cache_mb=0"]
        words += ["tiny.picture_side=256", "tiny.vit_side=224", "sample_prompts=[]"]
        words += [f"samples_per_pack={args.rows}", "packs_per_step=1", "checkpoint_every=1000"]
        words += [f"noise_draws={args.draws}", f"steps={1 + args.steps}"]
        if args.flux:
            flux_autoencoder(root / "autoencoder")
            words.append(f"autoencoder={root / 'autoencoder'}")
        config = override(tiny(), words)
        plain = measure(config, root / "plain")
        began = time.process_time()
        fill_store(config, root / "cache")
        filling = time.process_time() - began
        cached = measure(config, root / "cached")
        parts = shares(override(config, ["steps=2"]), root / "profile")
    floor = cached.flops / product_speed()
    saved = plain.cpu - cached.cpu
    figures = {
        "autoencoder": "published width" if args.flux else "shipped",
        "noise_draws": args.draws,
        "rows_per_step": args.rows,
        "pictures_per_step": 3 * args.rows,
        "tokens_per_step": cached.tokens,
        "seconds_per_step": round(plain.wall, 3),
        "seconds_per_step_cached": round(cached.wall, 3),
        "speedup": round(plain.wall / cached.wall, 2),
        "cpu_seconds_per_step": round(plain.cpu, 3),
        "cpu_seconds_per_step_cached": round(cached.cpu, 3),
        "speedup_of_cpu_time": round(plain.cpu / cached.cpu, 2),
        "encoding_saved_per_picture": round(saved / (3 * args.rows), 4),
        "rest_per_picture": round(cached.cpu / (3 * args.rows), 4),
        "rest_at_the_speed_of_a_product": round(floor / (3 * args.rows), 4),
        "speedup_if_the_rest_took_that": round(1 + saved / floor, 2),
        "shares_of_a_cached_step": parts,
        f"cpu_seconds_to_fill_{3 * count}_pictures": round(filling, 1),
        "largest_difference_of_losses": max(
            abs(a - b) for a, b in zip(plain.losses, cached.losses, strict=True)
        ),
        "why": (
            f"without the cache a picture costs {(plain.cpu) / (3 * args.rows):.3f} s of processor "
            f"time, {saved / (3 * args.rows):.3f} s of them to read, resize and encode it; nothing "
            f"else is saved, so no cache can give more than the ratio of the two parts allows"
        ),
        "machine": describe(),
    }
    print(json.dumps(figures, indent=1))
    if args.out:
        found = json.loads(args.out.read_text()) if args.out.exists() else {}
        found[f"{figures['autoencoder']}, {args.draws} draws"] = figures
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
