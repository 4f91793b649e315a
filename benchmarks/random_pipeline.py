"""Pipelines with random weights in any size: what the measurements of this folder run on."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import Qwen2Tokenizer

from echo4o import Echo4oPipeline
from echo4o.models.bagel import BagelConfig, BagelForUnifiedGeneration
from echo4o.models.bagel.assembly import default_scheduler
from echo4o.models.bagel.weights import SPECIAL_TOKENS, special_token_ids

SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vision_hidden_size": 128,
    "vision_intermediate_size": 512,
    "vision_num_hidden_layers": 4,
    "max_latent_size": 16,
    "vit_max_num_patch_per_side": 16,
}
"""The size all inference figures are for: 256 x 256 px."""


def make_tokenizer() -> Qwen2Tokenizer:
    """One token per byte, and the special ones."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(byte) for byte in plain] + [
        chr(256 + index) for index in range(256 - len(plain))
    ]
    tokenizer = Qwen2Tokenizer(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[])
    tokenizer.add_tokens(list(SPECIAL_TOKENS.values()), special_tokens=True)
    return tokenizer


def make_autoencoder(width: int = 32, multipliers: tuple[int, ...] = (1, 1, 1, 2)) -> AutoencoderKL:
    """A FLUX autoencoder of any width."""
    levels = len(multipliers)
    return AutoencoderKL(
        block_out_channels=[width * factor for factor in multipliers],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=2,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def make_pipeline(seed: int = 0, **sizes: Any) -> Echo4oPipeline:
    """A random pipeline; `sizes` are arguments of `BagelConfig.tiny` instead of `SMALL`."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    values = {"vocab_size": 512, **(sizes or SMALL), **special_token_ids(tokenizer)}
    model = BagelForUnifiedGeneration(BagelConfig.tiny(**values)).eval()
    # From scratch the velocity head is zero, and guidance would have nothing to combine.
    torch.nn.init.normal_(model.llm2vae.weight, std=0.05)
    pipe = Echo4oPipeline(model, make_autoencoder(), default_scheduler(), tokenizer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load(folder: str, precision: str) -> Echo4oPipeline:
    """Load a folder as "stored", "fp32", "bf16" or "int8" (bf16 with 8-bit weights)."""
    if precision == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        pipe = Echo4oPipeline.from_pretrained(
            folder, dtype=torch.bfloat16, quantization_config=Int8WeightOnlyConfig()
        )
    else:
        dtype = {"stored": None, "fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        pipe = Echo4oPipeline.from_pretrained(folder, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe
