"""Training steps of the full-size model with random weights on one GPU: time, memory, peak share.

An adapter on the generation expert (limit 48 GB), and the generation expert itself, with as many of
the 28 layers as the device holds: its float32 weights, gradients, moments and average need more
than 80 GB. A pack has about 10,000 tokens: two references and a target of 512 px, and a picture of
1,024 px from text. Unverified: nobody has run it on a GPU yet.

Run: python benchmarks/gpu_training.py [--dry-run]   (dry run: a tiny model through the same path)
Writes: benchmarks/results/gpu_training.json
"""

import argparse
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from machine import describe

from echo4o.models.bagel import (
    BagelConfig,
    BagelForUnifiedGeneration,
    PackedBatch,
    TextSegment,
    VaeSegment,
    VitSegment,
    pack,
)
from echo4o.training.adapters import adapter_parameters, add_adapters
from echo4o.training.config import TrainConfig
from echo4o.training.groups import parameter_group
from echo4o.training.opening import Where, attention_for, empty_model, use_attention
from echo4o.training.optimise import Trained
from echo4o.training.overrides import override
from echo4o.training.parts import LoraSettings
from echo4o.training.recipes import echo4o_7b
from echo4o.training.work import peak_flops, step_flops

IDS = {f"{name}_token_id": i for i, name in enumerate(("bos", "eos", "vision_start", "vision_end"))}
LORA_LIMIT_GB = 48
STEPS = 5
RESULTS = Path(__file__).parent / "results/gpu_training.json"


def make_batch(config: BagelConfig, sides: tuple[int, int], patches: int) -> PackedBatch:
    """One row with two references, one from text alone; sides in latent tokens."""

    def latent(side: int, *, noised: bool) -> VaeSegment:
        return VaeSegment(torch.randn(config.latent_channels, 2 * side, 2 * side), noised=noised)

    def seen() -> VitSegment:
        side = patches * config.vit_patch_size
        return VitSegment(torch.rand(3, side, side) * 2 - 1)

    words = TextSegment(torch.randint(10, 250, (40,)).tolist())
    small, large = sides
    references = [latent(small, noised=False), seen(), latent(small, noised=False), seen()]
    samples = [
        [*references, words, latent(small, noised=True)],
        [words, latent(large, noised=True)],
    ]
    return pack(samples, config)


def make_model(config: BagelConfig, device: torch.device, frozen: tuple[str, ...]) -> Any:
    """Random weights; what is not trained is in bfloat16 on a GPU."""
    bf16 = device.type == "cuda"
    where = Where(device, None, bf16)
    model = empty_model(config, where, lambda name: parameter_group(name) in (*frozen, None))
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        is_norm = "norm" in name and name.endswith("weight")
        parameter.data.normal_(float(is_norm), 0.02, generator=generator)
    model.latent_pos_embed.reset()
    model.vit_pos_embed.reset()
    use_attention(model, attention_for(device))
    model.gradient_checkpointing_enable()
    return model.train()


def measure(
    model: BagelForUnifiedGeneration, trained: Trained, batch: PackedBatch, device: torch.device
) -> dict[str, Any]:
    """Steps on a fixed pack, as the training loop does them."""
    is_gpu = device.type == "cuda"
    batch = batch.to(device)
    times = torch.full((batch.num_noised,), 0.5, device=device)
    noise = torch.randn_like(batch.latents)
    decoder = list(model.language_model.model.layers.parameters())
    learned = sum(p.numel() for p in decoder if p.requires_grad) / sum(p.numel() for p in decoder)
    gen = sum(batch.latent_lens)
    work = step_flops(
        model.config,
        und=batch.num_tokens - gen,
        gen=gen,
        vit_lens=batch.vit_lens,
        sample_lens=batch.sample_lens,
        labels=0,
        frozen_weights=1 - learned,
    )

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16, enabled=is_gpu):
            found = model(batch, timesteps=times, noise=noise)
        found.mse.mean().backward()
        if not trained.clip(1.0) > 0:  # it reads the norm: the device has finished
            sys.exit("no gradient reached what is trained")
        trained.step(1e-5)
        if is_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    step()
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    best = min(step() for _ in range(STEPS))
    return {
        "tokens": batch.num_tokens,
        "seconds": round(best, 3),
        "tokens_per_second": round(batch.num_tokens / best),
        "share_of_peak": round(work / best / peak_flops(device), 3),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if is_gpu else None,
        "parameters_trained": sum(p.numel() for p in trained.parameters.values()),
        "layers": model.config.text_config.num_hidden_layers,
    }


def lora(
    config: BagelConfig, settings: TrainConfig, batch: PackedBatch, device: torch.device
) -> Any:
    """An adapter on the generation expert; the base is in bfloat16."""
    model = make_model(config, device, ("und", "gen", "vit", "embeddings", "heads"))
    add_adapters(model, LoraSettings(experts=("gen",), rank=64), seed=0)
    return measure(model, Trained(adapter_parameters(model), settings), batch, device)


def expert(
    config: BagelConfig, settings: TrainConfig, batch: PackedBatch, device: torch.device
) -> Any:
    """The generation expert in full, with 8-bit moments."""
    model = make_model(config, device, ("und", "vit", "embeddings", "heads"))
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    settings = override(settings, ["optimizer=adamw_8bit"])
    return measure(model, Trained(parameters, settings), batch, device)


def layers_that_fit(config: BagelConfig, device: torch.device) -> int:
    """How many layers can be trained: 14.1 bytes a parameter, the rest of the model 2."""
    free = 0.85 * torch.cuda.get_device_properties(device).total_memory
    free -= 2 * 1.6e9 + 5e9  # embeddings, heads and vision tower; activations
    per_expert = 6.53e9 / 28
    return min(config.text_config.num_hidden_layers, int(free / (per_expert * (14.1 + 2))))


def main() -> None:
    """Measure, write, and fail when an adapter needs more than its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="a tiny model, here; writes nothing")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        sys.exit("this needs a CUDA device and none is visible; nothing was measured")
    device = torch.device("cpu" if args.dry_run else "cuda")
    settings = echo4o_7b()
    if args.dry_run:
        config, sides, patches = BagelConfig.tiny(**IDS), (4, 8), 4
    else:
        config, sides, patches = BagelConfig(**IDS), (32, 64), 37
    results: dict[str, Any] = {"machine": describe()}
    if not args.dry_run:
        results["machine"]["gpu"] = torch.cuda.get_device_name()
    results["lora"] = lora(config, settings, make_batch(config, sides, patches), device)
    gc.collect()
    torch.cuda.empty_cache()
    if not args.dry_run:
        config.text_config.num_hidden_layers = layers_that_fit(config, device)
    results["generation_expert"] = expert(
        config, settings, make_batch(config, sides, patches), device
    )
    text = json.dumps(results, indent=1)
    print(text)
    if args.dry_run:
        return
    RESULTS.write_text(text + "\n")
    if results["lora"]["peak_gb"] > LORA_LIMIT_GB:
        sys.exit(f"an adapter took more than {LORA_LIMIT_GB} GB")


if __name__ == "__main__":
    main()
