"""A tiny random pipeline, made in memory: real classes, a byte tokenizer, 64 px pictures."""

import torch
from diffusers import AutoencoderKL
from transformers import Qwen2Tokenizer

from echo4o import Echo4oPipeline
from echo4o.models.bagel.assembly import default_scheduler
from echo4o.models.bagel.configuration import BagelConfig
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration
from echo4o.models.bagel.weights import SPECIAL_TOKENS, special_token_ids


def byte_symbols() -> list[str]:
    """The printable stand-ins that byte-level BPE uses for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + index) for index in range(len(rest))]


def make_tokenizer() -> Qwen2Tokenizer:
    vocabulary = {symbol: index for index, symbol in enumerate(byte_symbols())}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_tokens(list(SPECIAL_TOKENS.values()), special_tokens=True)
    return tokenizer


def make_pipeline(seed: int = 0, **values) -> Echo4oPipeline:
    """`values` are fields of the configuration."""
    tokenizer = make_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BagelConfig.tiny(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            vocab_size=len(tokenizer),
            vision_hidden_size=32,
            vision_intermediate_size=48,
            **{"vae_transform": (64, 32, 16), "vit_transform": (56, 28, 14)} | values,
            **special_token_ids(tokenizer),
        )
        model = BagelForUnifiedGeneration(config).eval()
        # From scratch the velocity head is zero, which would hide every mistake before it.
        torch.nn.init.normal_(model.llm2vae.weight, std=0.2)
        for name, parameter in model.named_parameters():
            if "proj" in name:
                torch.nn.init.normal_(parameter, std=0.15)
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=16,
            scaling_factor=0.5,
            shift_factor=0.1,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ).eval()
    pipe = Echo4oPipeline(model, vae, default_scheduler(), tokenizer)
    pipe.set_progress_bar_config(disable=True)
    return pipe
