"""Builds the small random OmniGen2 of the recipe `tiny_omnigen2`, whole in memory."""

from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

from echo4o.models.omnigen2 import OmniGen2Pipeline, OmniGen2Transformer2DModel
from echo4o.models.omnigen2.processor import SYSTEM_LINE

from .parts import TinyOmniGen2
from .tiny_text import MARKS, text_encoder
from .tokenizer import train_tokenizer

_POSITIONS = 2048
"""Positions of each axis; texts are counted in them, too."""


def build_omnigen2(
    sizes: TinyOmniGen2, vae: AutoencoderKL, instructions: list[str], seed: int
) -> OmniGen2Pipeline:
    """The pipeline in memory; the same arguments give the same weights.

    The text encoder is never trained. A random one still tells texts apart: what it adds to the
    embeddings of its tokens depends on the tokens before them.
    """
    # What stands around every prompt says nothing here: two tokens instead of some 25.
    added = [*MARKS.values(), f"system\n{SYSTEM_LINE}", "user\n"]
    tokenizer = train_tokenizer(instructions, sizes.vocab_size - len(added))
    tokenizer.add_tokens(added, special_tokens=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mllm = text_encoder(sizes, tokenizer)
        transformer = OmniGen2Transformer2DModel.from_config(
            transformer_sizes(sizes, latent_channels=vae.config.latent_channels)
        )
    scheduler = FlowMatchEulerDiscreteScheduler()
    return OmniGen2Pipeline(transformer.eval(), vae, scheduler, mllm.eval(), tokenizer)


def transformer_sizes(sizes: TinyOmniGen2, *, latent_channels: int) -> dict[str, Any]:
    """The transformer's configuration."""
    return {
        "in_channels": latent_channels,
        "hidden_size": sizes.hidden_size,
        "num_layers": sizes.layers,
        "num_refiner_layers": sizes.refiner_layers,
        "num_attention_heads": sizes.heads,
        "num_kv_heads": sizes.kv_heads,
        "multiple_of": 16,
        "ffn_dim_multiplier": sizes.intermediate_size / (4 * sizes.hidden_size),
        "axes_dim_rope": _axes(sizes.hidden_size // sizes.heads),
        "axes_lens": (_POSITIONS,) * 3,
        "text_feat_dim": sizes.text_hidden_size,
        "timestep_scale": 1000.0,
        "sample_size": sizes.picture_side // 8,
    }


def _axes(head: int) -> tuple[int, int, int]:
    """A head's values over the three position axes, each an even number."""
    side = head // 6 * 2
    return head - 2 * side, side, side
