"""Milliseconds per training step of the tiny model: forward, backward, clipping, fused AdamW.

Run: python benchmarks/bench_training_step.py [--threads 2] [--profile]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from echo4o.models.bagel import (
    BagelConfig,
    BagelForUnifiedGeneration,
    PackedBatch,
    TextSegment,
    VaeSegment,
    pack,
)


def make_batch(config: BagelConfig, samples: int, seed: int = 0) -> PackedBatch:
    """Text-to-image samples of the rehearsal's size: about 18 words, 16 latent tokens."""
    generator = torch.Generator().manual_seed(seed)
    packed = []
    for _ in range(samples):
        words = int(torch.randint(14, 21, (1,), generator=generator))
        ids = torch.randint(config.text_config.vocab_size, (words,), generator=generator)
        latent = torch.randn(config.latent_channels, 8, 8, generator=generator)
        packed.append([TextSegment(ids.tolist()), VaeSegment(latent, noised=True)])
    return pack(packed, config)


def make_step(model: BagelForUnifiedGeneration, batch: PackedBatch) -> Callable[[], None]:
    """One optimiser step on a fixed batch."""
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    times = torch.rand(batch.num_noised)
    noise = torch.randn_like(batch.latents)

    def step() -> None:
        output = model(batch, timesteps=times, noise=noise)
        output.mse.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def main() -> None:
    """Print the median of some steps, or a profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = BagelConfig.tiny(
        hidden_size=args.hidden,
        intermediate_size=512,
        num_hidden_layers=args.layers,
        num_attention_heads=6,
        num_key_value_heads=3,
        bos_token_id=1,
        eos_token_id=2,
        vision_start_token_id=3,
        vision_end_token_id=4,
    )
    model = BagelForUnifiedGeneration(config).train()
    batch = make_batch(config, args.samples)
    step = make_step(model, batch)
    for _ in range(3):
        step()
    if args.profile:
        with torch.profiler.profile() as profile:
            for _ in range(5):
                step()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=30))
        return
    seconds = []
    for _ in range(args.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    middle, best = statistics.median(seconds), min(seconds)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters / 1e6:.2f} M parameters, {batch.num_tokens} tokens, {args.threads} threads: "
        f"median {middle * 1e3:.0f} ms, best {best * 1e3:.0f} ms, "
        f"{batch.num_tokens / middle:.0f} tokens/s"
    )


if __name__ == "__main__":
    main()
