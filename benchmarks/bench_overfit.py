"""Eight multi-reference rows learned by heart by the recipe `tiny`, with the pictures to look at.

The rows are painted by the sandbox's world in the form of the released subset: two references, an
instruction that names them, a target with both objects at their places. The instruction is the
same in all rows: only the references tell what to draw. The sandbox's eye reads the pictures.

With --lora an adapter learns them on a model that has learned other rows, where the objects stand
side by side and not one above the other; what it draws without the adapter is counted, too.

Run: python benchmarks/bench_overfit.py [--lora] [--threads 1] [--out FOLDER] [--result FILE]
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from diffusers import AutoencoderKL
from machine import describe
from PIL import Image

from echo4o import Echo4oPipeline, schema
from echo4o.sandbox import world
from echo4o.training.overrides import override
from echo4o.training.recipes import tiny
from echo4o.training.tiny import load_autoencoder
from echo4o.training.train import train

ROWS, BASE_ROWS, SIDE = 8, 48, 64
SETTINGS = [
    *("drop_text=0", "drop_vit=0", "drop_vae=0", "samples_per_pack=8", "packs_per_step=1"),
    *("warmup_steps=20", "ema_decay=0.98", "checkpoint_every=100000", "sample_prompts=[]"),
    # Mostly much noise, where nothing but the references says what there will be.
    *("noise_draws=4", "learning_rate=0.004", "timestep_shift=2.5"),
]
ADAPTER = ["lora.experts=gen,und", "lora.rank=16", "learning_rate=0.01"]
STEPS, BASE_STEPS = 350, 300


class Made(NamedTuple):
    """What a model draws for some rows."""

    pictures: list[Image.Image]
    read: int
    """Pictures in which the eye finds what the row asks for, and nothing else."""


def paint_rows(out: Path, count: int, places: tuple[str, str], seed: int) -> datasets.Dataset:
    """Rows with two references each, as a dataset folder; every row has the same instruction.

    Objects are large: small ones fill a tenth of a target, and a wrong colour costs little loss. A
    target that the autoencoder itself spoils (a diamond may come back too small to be called
    large) could be drawn by no training and is left out.
    """
    text = f"Put the large object from image 1 {places[0]} and the large object from image 2 "
    text += places[1]
    rng, vae = random.Random(seed), load_autoencoder(None).float()
    kinds = [(c, s) for c in world.COLOURS for s in world.SHAPES]
    rows: list[dict[str, Any]] = []
    number = 0
    while len(rows) < count:
        number += 1
        scenes = [f"A photo of a large {' '.join(kind)}" for kind in rng.sample(kinds, 2)]
        inputs = [world.paint(scene, width=SIDE, height=SIDE, seed=number) for scene in scenes]
        target = world.paint(text, width=SIDE, height=SIDE, seed=number, references=inputs)
        row = {"id": f"row-{number}", "instruction": text, "input_images": inputs}
        row["output_image"] = target
        if is_read(target, row) and is_read(decoded(vae, target), row):
            rows.append(row)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    features = datasets.Features({name: schema.features()[name] for name in columns})
    made = datasets.Dataset.from_dict(columns, features=features)
    out.mkdir(parents=True, exist_ok=True)
    made.to_parquet(out / "train.parquet")
    (out / "README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  data_files:\n  - split: train\n"
        "    path: train.parquet\n---\n"
    )
    return made


@torch.no_grad()
def decoded(vae: AutoencoderKL, picture: Image.Image) -> Image.Image:
    """A picture as the autoencoder gives it back."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    found = vae.decode(vae.encode(pixels).latent_dist.mean).sample[0].clamp(-1, 1)
    return Image.fromarray(((found.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())


def asked(row: dict[str, Any]) -> list[dict[str, str]]:
    """What the eye must find: the objects of the references, at the places the text gives."""
    found = [world.see(picture)[0] for picture in row["input_images"]]
    places = ("above", "below") if "on the top" in row["instruction"] else ("left", "right")
    return [
        {"class": one.shape, "color": one.colour, "region": place, "size": "large"}
        for one, place in zip(found, places, strict=True)
    ]


def is_read(picture: Image.Image, row: dict[str, Any]) -> bool:
    """Whether the eye finds in a picture what the row asks for, and nothing else."""
    return all(finding.ok for finding in world.check(world.see(picture), asked(row)))


def draw(pipe: Echo4oPipeline, rows: Sequence[dict[str, Any]]) -> Made:
    """What a model makes of rows, without guidance."""
    pipe.set_progress_bar_config(disable=True)
    pictures = [
        pipe(
            row["instruction"],
            image=list(row["input_images"]),
            num_inference_steps=16,
            guidance_scale=1.0,
            image_guidance_scale=1.0,
            timestep_shift=1.0,
            generator=torch.Generator().manual_seed(0),
        ).images[0]
        for row in rows
    ]
    read = sum(is_read(picture, row) for picture, row in zip(pictures, rows, strict=True))
    return Made(pictures, read)


def error(made: Image.Image, target: Image.Image) -> float:
    """Mean absolute difference of levels."""
    pixels = [
        np.asarray(p.convert("RGB").resize((SIDE, SIDE)), dtype=float) for p in (made, target)
    ]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def sheet(rows: Sequence[dict[str, Any]], drawn: Sequence[Made]) -> Image.Image:
    """References, target, and what was drawn; one row of the picture each."""
    found = Image.new("RGB", ((3 + len(drawn)) * SIDE, len(rows) * SIDE))
    for number, row in enumerate(rows):
        pictures = [*row["input_images"], row["output_image"]]
        pictures += [made.pictures[number] for made in drawn]
        for place, picture in enumerate(pictures):
            small = picture.convert("RGB").resize((SIDE, SIDE))
            found.paste(small, (SIDE * place, SIDE * number))
    return found.resize((found.width * 2, found.height * 2))


def main() -> None:
    """Train, draw, compare, and leave a sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="default: a temporary folder, which stays")
    parser.add_argument("--result", type=Path, help="file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)  # two stall as soon as the machine has other work
    out = args.out or Path(tempfile.mkdtemp(prefix="overfit-"))
    places = ("on the top", "on the bottom") if args.lora else ("on the left", "on the right")
    rows = paint_rows(out / "rows", ROWS, places, seed=0)
    words = [*SETTINGS, f"data={out / 'rows'}", f"steps={args.steps}"]
    drawn = []
    if args.lora:
        paint_rows(out / "base-rows", BASE_ROWS, ("on the left", "on the right"), seed=1)
        base = [*SETTINGS, f"data={out / 'base-rows'}", f"steps={BASE_STEPS}"]
        train(override(tiny(), base), out / "base")
        drawn.append(draw(Echo4oPipeline.from_pretrained(out / "base/model"), rows))
        words += [f"base_model={out / 'base/model'}", *ADAPTER]
    began, worked = time.monotonic(), time.process_time()
    train(override(tiny(), words), out / "run")
    seconds, worked = time.monotonic() - began, time.process_time() - worked
    pipe = Echo4oPipeline.from_pretrained(out / ("base/model" if args.lora else "run/model"))
    if args.lora:
        pipe.load_lora_weights(out / "run/adapter")
    made = draw(pipe, rows)
    drawn.append(made)
    sheet(rows, drawn).save(out / "sheet.png")
    targets = [row["output_image"] for row in rows]
    vae = load_autoencoder(None).float()
    lines = [json.loads(line) for line in (out / "run/loss.jsonl").open()]

    def levels(shift: int) -> float:
        pairs = zip(made.pictures, targets[shift:] + targets[:shift], strict=True)
        return round(float(np.mean([error(*pair) for pair in pairs])), 1)

    figures = {
        "rows": ROWS,
        "read_as_asked": made.read,
        "read_as_asked_without_the_adapter": drawn[0].read if args.lora else None,
        "steps": args.steps,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(worked, 1),
        "threads": args.threads,
        "first_loss": round(lines[0]["loss"], 3),
        "last_loss": round(sum(line["loss"] for line in lines[-20:]) / 20, 3),
        "levels_off_target": levels(0),
        "levels_off_target_of_the_autoencoder": round(
            float(np.mean([error(decoded(vae, target), target) for target in targets])), 1
        ),
        "levels_off_another_target": levels(1),
        "machine": describe(),
    }
    if args.result:
        found = json.loads(args.result.read_text()) if args.result.exists() else {}
        found["adapter" if args.lora else "weights"] = figures
        args.result.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(figures, indent=1), f"look at {out / 'sheet.png'}", sep="\n")


if __name__ == "__main__":
    main()
