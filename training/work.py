"""Arithmetic of a training step, and what a device could do at most."""

import time
from collections.abc import Sequence

import torch

from echo4o.models.bagel.configuration import BagelConfig

_PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "B200": 2250e12,
}
"""Dense bfloat16 operations per second, by the makers' data sheets; an SXM card's where there are
several."""


def peak_flops(device: torch.device) -> float:
    """Operations per second a device is sold with; of an unknown one, what a matrix product does.

    A GPU is rated in bfloat16, a CPU in float32.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, peak in _PEAKS.items():
            if known in name:
                return peak
        return _measured(device, torch.bfloat16, 8192)
    return _measured(device, torch.float32, 768)


def _measured(device: torch.device, dtype: torch.dtype, size: int) -> float:
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        float((a @ b)[0, 0])  # waits for the result
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def step_flops(
    config: BagelConfig,
    *,
    und: int,
    gen: int,
    vit_lens: Sequence[int],
    sample_lens: Sequence[int],
    labels: int,
    frozen_weights: float = 0.0,
) -> float:
    """Operations of forward and backward of a pack; recomputed activations are not counted.

    Args:
        config: Sizes.
        und: Tokens of the understanding expert.
        gen: Latent tokens.
        vit_lens: Patches of each picture in the vision tower.
        sample_lens: Tokens of each sample; attention counts each pair once, masked or not.
        labels: Text tokens with a loss.
        frozen_weights: Share of the weights that get no gradient (their third of the work).
    """
    text, vision = config.text_config, config.vision_config
    hidden, layers = text.hidden_size, text.num_hidden_layers
    kv = hidden // text.num_attention_heads * text.num_key_value_heads
    per_layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * text.intermediate_size
    attention = 2 * layers * hidden * sum(length**2 for length in sample_lens)
    heads = 2 * gen * config.latent_dim * hidden + labels * text.vocab_size * hidden
    width = vision.hidden_size
    per_patch = vision.num_hidden_layers * (
        4 * width * width + 2 * width * vision.intermediate_size
    )
    tower = sum(vit_lens) * per_patch
    tower += 2 * vision.num_hidden_layers * width * sum(length**2 for length in vit_lens)
    weights = (und + gen) * layers * per_layer + heads + tower
    # 2 operations each; the backward pass costs once for inputs and once for weights.
    return 2.0 * (weights * (3 - frozen_weights) + 3 * attention)
