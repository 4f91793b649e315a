"""Eight multi-reference rows learned by heart by the recipe `tiny`, with the pictures to look at.

The rows are painted by the sandbox's world in the form of the released subset: two references, an
instruction that names them, a target with both objects at their places. The instruction is the
same in all rows: only the references tell what to draw. The sandbox's eye reads the pictures.

Run: python benchmarks/bench_overfit.py [--lora] [--steps 650] [--out FOLDER] [--result FILE]
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from machine import describe
from PIL import Image

from echo4o import Echo4oPipeline, schema
from echo4o.sandbox import world
from echo4o.training.overrides import override
from echo4o.training.recipes import tiny
from echo4o.training.train import train

ROWS = 8
SETTINGS = [
    *("drop_text=0", "drop_vit=0", "drop_vae=0", "samples_per_pack=8", "packs_per_step=1"),
    *("warmup_steps=20", "ema_decay=0.98", "checkpoint_every=100000", "sample_prompts=[]"),
    # Mostly much noise, where nothing but the references says what there will be.
    *("noise_draws=2", "learning_rate=0.003", "timestep_shift=4"),
]


def paint_rows(out: Path) -> datasets.Dataset:
    """Rows with two references each, as a dataset folder; every row has the same instruction.

    Objects are large: small ones fill a tenth of a target, and a wrong colour costs little loss.
    """
    text = (
        "Put the large object from image 1 on the left "
        "and the large object from image 2 on the right"
    )
    rng = random.Random(0)
    kinds = [(c, s) for c in world.COLOURS for s in world.SHAPES]
    columns: dict[str, list[object]] = {"id": [], "input_images": [], "output_image": []}
    for number in range(ROWS):
        scenes = [f"A photo of a large {' '.join(kind)}" for kind in rng.sample(kinds, 2)]
        inputs = [world.paint(scene, width=64, height=64, seed=number) for scene in scenes]
        columns["id"].append(f"row-{number}")
        columns["input_images"].append(inputs)
        target = world.paint(text, width=64, height=64, seed=number, references=inputs)
        columns["output_image"].append(target)
    columns["instruction"] = [text] * ROWS
    features = datasets.Features({name: schema.features()[name] for name in columns})
    rows = datasets.Dataset.from_dict(columns, features=features)
    out.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(out / "train.parquet")
    (out / "README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  data_files:\n  - split: train\n"
        "    path: train.parquet\n---\n"
    )
    return rows


def draw(pipe: Echo4oPipeline, row: dict[str, object]) -> Image.Image:
    """What the model makes of a row, with light guidance."""
    return pipe(
        row["instruction"],
        image=list(row["input_images"]),
        num_inference_steps=24,
        guidance_scale=1.0,
        image_guidance_scale=1.0,
        timestep_shift=1.0,
        generator=torch.Generator().manual_seed(0),
    ).images[0]


def asked(row: dict[str, object]) -> list[dict[str, str]]:
    """What the eye must find: the objects of the references, at the places the text gives."""
    found = [world.see(picture)[0] for picture in row["input_images"]]
    return [
        {"class": one.shape, "color": one.colour, "region": place, "size": "large"}
        for one, place in zip(found, ("left", "right"), strict=True)
    ]


def is_read(picture: Image.Image, row: dict[str, object]) -> bool:
    """Whether the eye finds in a picture what the row asks for, and nothing else."""
    return all(finding.ok for finding in world.check(world.see(picture), asked(row)))


def error(made: Image.Image, target: Image.Image) -> float:
    """Mean absolute difference of levels."""
    pixels = [np.asarray(p.convert("RGB").resize((64, 64)), dtype=float) for p in (made, target)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def main() -> None:
    """Train, draw, compare, and leave a sheet: references, target, picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--steps", type=int, default=650)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="default: a temporary folder, which stays")
    parser.add_argument("--result", type=Path, help="file for the figures")
    args = parser.parse_args()
    # Two threads stall as soon as the machine has other work.
    torch.set_num_threads(args.threads)
    args.out = args.out or Path(tempfile.mkdtemp(prefix="overfit-"))
    rows = paint_rows(args.out / "rows")
    words = [*SETTINGS, f"data={args.out / 'rows'}"]
    steps = [f"steps={args.steps}"]
    if args.lora:
        # An adapter needs a model that can draw: half of the steps make one, on all weights.
        half = args.steps // 2
        train(override(tiny(), [*words, f"steps={half}", "seed=1"]), args.out / "base")
        words.append(f"base_model={args.out / 'base/model'}")
        steps = [f"steps={args.steps - half}", "lora.experts=gen,und", "lora.rank=16"]
    began, worked = time.monotonic(), time.process_time()
    train(override(tiny(), [*words, *steps]), args.out / "run")
    seconds, worked = time.monotonic() - began, time.process_time() - worked
    base = args.out / ("base/model" if args.lora else "run/model")
    pipe = Echo4oPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    if args.lora:
        pipe.load_lora_weights(args.out / "run/adapter")
    sheet = Image.new("RGB", (4 * 64, ROWS * 64))
    errors, others, right, swapped = [], [], 0, 0
    assert all(is_read(row["output_image"], row) for row in rows), "the eye cannot read the targets"
    for number, row in enumerate(rows):
        made = draw(pipe, row)
        errors.append(error(made, row["output_image"]))
        next_row = rows[(number + 1) % ROWS]
        others.append(error(made, next_row["output_image"]))
        right += is_read(made, row)
        swapped += is_read(made, next_row)
        print(f"row {number}: {world.describe(world.see(made))}, {errors[-1]:.1f} levels off")
        for place, picture in enumerate((*row["input_images"], row["output_image"], made)):
            sheet.paste(picture.convert("RGB").resize((64, 64)), (64 * place, 64 * number))
    sheet.resize((sheet.width * 2, sheet.height * 2)).save(args.out / "sheet.png")
    lines = [json.loads(line) for line in (args.out / "run/loss.jsonl").open()]
    figures = {
        "kind": "adapter" if args.lora else "weights",
        "steps": args.steps,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(worked, 1),
        "threads": args.threads,
        "read_as_asked": right,
        "read_as_the_next_row": swapped,
        "rows": ROWS,
        "first_loss": round(lines[0]["loss"], 3),
        "last_loss": round(sum(line["loss"] for line in lines[-20:]) / 20, 3),
        "levels_off_target": round(float(np.mean(errors)), 1),
        "levels_off_another_target": round(float(np.mean(others)), 1),
        "machine": describe(),
    }
    if args.result:
        args.result.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1), f"look at {args.out / 'sheet.png'}", sep="\n")


if __name__ == "__main__":
    main()
