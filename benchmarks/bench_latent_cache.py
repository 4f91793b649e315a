"""Steps per second of the recipe `tiny` at 256 px, with and without `train cache`.

Rows have two references each. With --flux the autoencoder has the published width (random weights):
its share of a step is then as in the recipes for BAGEL-7B, though the rest is still small.

Run: OMP_NUM_THREADS=1 python benchmarks/bench_latent_cache.py [--flux] [--out FILE]
"""

import argparse
import io
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import numpy as np
import torch
from diffusers import AutoencoderKL
from machine import describe
from PIL import Image

from echo4o import schema
from echo4o.training.caching import fill_store
from echo4o.training.config import TrainConfig
from echo4o.training.overrides import override
from echo4o.training.recipes import tiny
from echo4o.training.train import train


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


def seconds(config: TrainConfig, out: Path, steps: int) -> tuple[float, list[float]]:
    """Time of one step, without what a run needs before its first; and the losses."""
    spent = []
    for count in (1, 1 + steps):
        began = time.perf_counter()
        train(override(config, [f"steps={count}"]), out / str(count))
        spent.append(time.perf_counter() - began)
    lines = (out / str(1 + steps) / "loss.jsonl").read_text().splitlines()
    return (spent[1] - spent[0]) / steps, [json.loads(line)["loss"] for line in lines]


def main() -> None:
    """Print, and perhaps write, the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flux", action="store_true")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with TemporaryDirectory() as name:
        root = Path(name)
        write_rows(root / "rows", 16)
        words = [f"data={root / 'rows'}", f"latent_store={root / 'store'}", "latent_cache_mb=0"]
        words += ["tiny.picture_side=256", "tiny.vit_side=224", "sample_prompts=[]"]
        words += ["samples_per_pack=4", "packs_per_step=1", "checkpoint_every=1000"]
        if args.flux:
            flux_autoencoder(root / "autoencoder")
            words.append(f"autoencoder={root / 'autoencoder'}")
        config = override(tiny(), words)
        plain, expected = seconds(config, root / "plain", args.steps)
        began = time.perf_counter()
        fill_store(config, root / "cache")
        filling = time.perf_counter() - began
        cached, found = seconds(config, root / "cached", args.steps)
    figures = {
        "autoencoder": "published width" if args.flux else "shipped",
        "seconds_per_step": round(plain, 3),
        "seconds_per_step_cached": round(cached, 3),
        "speedup": round(plain / cached, 2),
        "seconds_to_fill_48_pictures": round(filling, 1),
        "largest_difference_of_losses": max(
            abs(a - b) for a, b in zip(expected, found, strict=True)
        ),
        "machine": describe(),
    }
    print(json.dumps(figures, indent=1))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
