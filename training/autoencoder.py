"""Trains a small image autoencoder (the FLUX structure at tiny width) on a folder of pictures.

The rehearsal has no time for it, so the package ships one; this is the command that made it:
    echo4o sandbox paint --out pictures --count 20000 --size 64 --seed 0
    python -m echo4o.training.autoencoder --pictures pictures --out tiny_autoencoder
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from echo4o.errors import Echo4oError
from echo4o.records import Input, RunRecord, environment, sha256_file

KL_WEIGHT = 1e-4
LATENT_NOISE = 0.05
"""Spread of the noise that the decoder learns to live with, in units of the latents' spread."""


def tiny_autoencoder() -> AutoencoderKL:
    """The structure of the FLUX autoencoder at tiny width: 8x smaller, 16 channels."""
    return AutoencoderKL(
        block_out_channels=(16, 24, 32, 48),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def read_pictures(folder: Path) -> Tensor:
    """All PNG pictures of `folder` as (N, 3, H, W) uint8; they must have one size."""
    files = sorted(folder.rglob("*.png"))
    if not files:
        raise Echo4oError(f"{folder} holds no PNG pictures; make some with `echo4o sandbox paint`")
    arrays = [np.asarray(Image.open(file).convert("RGB")) for file in tqdm(files, desc="read")]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def train(
    pictures: Tensor, *, steps: int, batch: int, learning_rate: float, seed: int
) -> AutoencoderKL:
    """Fit the autoencoder: absolute error, a light KL term, noise on the latents."""
    torch.manual_seed(seed)
    model = tiny_autoencoder().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(range(steps), desc="autoencoder")
    for step in bar:
        warm = min(1.0, (step + 1) / 200)
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = learning_rate * warm * max(cosine, 0.01)
        chosen = torch.randint(len(pictures), (batch,), generator=generator)
        target = pictures[chosen].float() / 127.5 - 1
        posterior = model.encode(target).latent_dist
        latent = posterior.sample()
        latent = latent + LATENT_NOISE * latent.detach().std() * torch.randn_like(latent)
        output = model.decode(latent).sample
        error = functional.l1_loss(output, target) + functional.mse_loss(output, target)
        loss = error + KL_WEIGHT * posterior.kl().mean() / latent[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            bar.set_postfix(psnr=f"{psnr(output.detach(), target):.1f} dB")
    return model


def psnr(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    return -10 * math.log10(float((output.clamp(-1, 1) - target).square().mean()) / 4)


@torch.no_grad()
def measure(model: AutoencoderKL, pictures: Tensor) -> dict[str, float]:
    """PSNR of the mean reconstruction, and the latents' mean and spread."""
    target = pictures.float() / 127.5 - 1
    posterior = model.encode(target).latent_dist
    output = model.decode(posterior.mean).sample
    sample = posterior.sample()
    return {
        "psnr_db": psnr(output, target),
        "latent_mean": float(sample.mean()),
        "latent_std": float(sample.std()),
        "posterior_std": float(posterior.std.mean()),
    }


def main() -> None:
    """Train, measure on pictures that were held out, save with a record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started, clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    pictures = read_pictures(args.pictures)
    held_out, pictures = pictures[:512], pictures[512:]
    model = train(
        pictures,
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    metrics = measure(model, held_out)
    model.register_to_config(
        scaling_factor=1 / metrics["latent_std"], shift_factor=metrics["latent_mean"]
    )
    model.to(torch.bfloat16).save_pretrained(args.out)
    metrics["psnr_db_as_saved"] = measure(model.float(), held_out)["psnr_db"]
    files = {file.name: sha256_file(file) for file in sorted(args.out.iterdir())}
    RunRecord(
        name="tiny_autoencoder",
        command=__doc__.split("\n    ", 1)[1].replace("\n    ", " && ").strip(),
        inputs=(
            Input(kind="pictures", id="echo4o sandbox paint --count 20000 --size 64 --seed 0"),
        ),
        parameters={"steps": args.steps, "batch": args.batch, "learning_rate": args.learning_rate},
        seed=args.seed,
        environment=environment(),
        metrics={name: round(value, 4) for name, value in metrics.items()},
        files=files,
        started=started,
        seconds=round(time.monotonic() - clock, 1),
    ).save(args.out)


if __name__ == "__main__":
    main()
