"""Builds the small random OmniGen2 of the recipe `tiny_omnigen2`, whole in memory."""

from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from echo4o.models.omnigen2 import OmniGen2Pipeline, OmniGen2Transformer2DModel
from echo4o.models.omnigen2.processor import SYSTEM_LINE

from .parts import TinyBlip3o, TinyOmniGen2
from .tokenizer import train_tokenizer

_TEXT_HEAD = 32
"""Head size of the text encoder."""
_POSITIONS = 2048
"""Positions of each axis; texts are counted in them, too."""
MARKS = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
"""Tokens that the text encoder's configuration names, though none stands in a prompt."""


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


def text_encoder(
    sizes: TinyOmniGen2 | TinyBlip3o, tokenizer: Qwen2Tokenizer
) -> Qwen2_5_VLForConditionalGeneration:
    """A random Qwen2.5-VL whose vision tower is as small as can be."""
    width, third = sizes.text_hidden_size, _TEXT_HEAD // 8
    text = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|im_start|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": width // _TEXT_HEAD,
        "num_key_value_heads": width // _TEXT_HEAD,
        "initializer_range": width**-0.5,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2 * third, third, third],
            "rope_theta": 1e4,
        },
    }
    # Never used to draw: references go through the autoencoder only. As small as it can be.
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": width}
    marks = dict(zip(MARKS, tokenizer.convert_tokens_to_ids(list(MARKS.values())), strict=True))
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision | {"intermediate_size": 16, "fullatt_block_indexes": [0]},
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        **marks,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    nn.init.normal_(model.get_input_embeddings().weight)
    return model


def _axes(head: int) -> tuple[int, int, int]:
    """A head's values over the three position axes, each an even number."""
    side = head // 6 * 2
    return head - 2 * side, side, side
