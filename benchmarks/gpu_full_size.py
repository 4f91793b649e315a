"""The full-size model with random weights on one GPU: seconds per picture, memory, matrix rate.

1024 x 1024 px, 49 steps, default guidance, bfloat16. Unverified: nobody has run it on a GPU yet.

Run: make bench-gpu, or python benchmarks/gpu_full_size.py [--side 1024] [--steps 49]
Writes: benchmarks/results/gpu.json
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from arithmetic import Counter, Stretch, decoding
from machine import describe
from random_pipeline import make_autoencoder, make_tokenizer

from echo4o import Echo4oPipeline
from echo4o.models.bagel import BagelConfig, BagelForUnifiedGeneration
from echo4o.models.bagel.assembly import default_scheduler
from echo4o.models.bagel.weights import special_token_ids
from echo4o.sampler import Guidance, shift_times, sigma_grid

PROMPT = "a photo of a red cube that stands on a blue ball"
RESULTS = Path(__file__).parent / "results/gpu.json"


def make_full_size(device: torch.device) -> Echo4oPipeline:
    """The published sizes, made on the GPU: 29 GB of random bfloat16."""
    tokenizer = make_tokenizer()
    config = BagelConfig(**special_token_ids(tokenizer))
    with torch.device("meta"):
        model = BagelForUnifiedGeneration(config).to(torch.bfloat16)
    model = model.to_empty(device=device).eval()
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        # Norms stay near one, so that activations keep the size a trained model gives them.
        is_norm = "norm" in name and name.endswith("weight")
        parameter.data.normal_(float(is_norm), 0.02, generator=generator)
    model.latent_pos_embed.reset()
    model.vit_pos_embed.reset()
    vae = make_autoencoder(128, (1, 2, 4, 4)).to(device)
    pipe = Echo4oPipeline(model, vae, default_scheduler(), tokenizer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Best wall time of some calls after one to warm up."""
    run()
    best = float("inf")
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def matrix_rate(device: torch.device, size: int = 8192) -> float:
    """Multiply-adds per second of a square bfloat16 product."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return size**3 / seconds(lambda: a @ b, 20)


def unavoidable(pipe: Echo4oPipeline, side: int, steps: int) -> int:
    """Multiply-adds of the decoder for one picture; the autoencoder is counted apart."""
    counter = Counter(pipe.model.config)
    text = len(pipe.tokenizer(PROMPT)["input_ids"]) + 2
    times = shift_times(torch.tensor(sigma_grid(steps)), 3.0).tolist()
    steps_work = counter.denoising((side // 16) ** 2, text, 0, text, times, Guidance())
    return counter.context([Stretch(text, True)]) + steps_work


def measure(side: int, steps: int) -> dict[str, Any]:
    """Exact and cached pictures."""
    device = torch.device("cuda")
    pipe = make_full_size(device)
    rate = matrix_rate(device)
    work = unavoidable(pipe, side, steps)
    decode = decoding(make_autoencoder(128, (1, 2, 4, 4)), 64) * (side // 64) ** 2

    def picture() -> Any:
        seed = torch.Generator().manual_seed(0)
        size = {"height": side, "width": side, "num_inference_steps": steps}
        return pipe(PROMPT, generator=seed, output_type="latent", **size).images[0]

    results: dict[str, Any] = {
        "machine": describe() | {"gpu": torch.cuda.get_device_name()},
        "loaded_gb": round(torch.cuda.memory_allocated() / 1e9, 2),
        "unavoidable_tmac_decoder": round(work / 1e12, 1),
        "about_tmac_autoencoder": round(decode / 1e12, 1),
        "matrix_rate_tflops": round(2 * rate / 1e12, 1),
    }
    torch.cuda.reset_peak_memory_stats()
    exact, best = picture(), seconds(picture, 2)
    grid = (side // 16, side // 16)
    results["denoising_seconds"] = round(best, 2)
    results["share_of_matrix_rate"] = round(work / rate / best, 3)
    decoder_seconds = seconds(lambda: pipe.decode_latents(exact[None], grid), 2)
    results["decoding_seconds"] = round(decoder_seconds, 2)
    results["picture_seconds"] = round(best + decoder_seconds, 2)
    results["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    pipe.enable_cache()
    cached = picture()
    results["cached_picture_seconds"] = round(seconds(picture, 2) + decoder_seconds, 2)
    results["cached_relative_error"] = round(float((cached - exact).norm() / exact.norm()), 4)
    return results


def main() -> None:
    """Measure and write, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=49)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this needs a CUDA device with 40 GB and none is visible; nothing was measured")
    with torch.no_grad():
        text = json.dumps(measure(args.side, args.steps), indent=1)
    print(text)
    RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main()
