"""A tiny random OmniGen2, made in memory: real classes, a byte tokenizer, small pictures."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from tiny_pipeline import byte_symbols
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from echo4o.models.omnigen2 import OmniGen2Pipeline, OmniGen2Transformer2DModel


def make_omnigen2(seed: int = 0) -> OmniGen2Pipeline:
    vocabulary = {symbol: index for index, symbol in enumerate(byte_symbols())}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    marks = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<|image_pad|>"]
    tokenizer.add_tokens([*marks, "<|video_pad|>"], special_tokens=True)
    tokenizer.pad_token = "<|endoftext|>"
    ids = dict(zip(marks, tokenizer.convert_tokens_to_ids(marks), strict=True))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = {
            "vocab_size": len(tokenizer),
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [1, 2, 3],
                "rope_theta": 1e6,
            },
        }
        vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 24}
        config = Qwen2_5_VLConfig(
            text_config=text,
            vision_config=vision | {"intermediate_size": 16, "fullatt_block_indexes": [0]},
            image_token_id=ids["<|image_pad|>"],
            video_token_id=len(tokenizer) - 1,
            vision_start_token_id=ids["<|vision_start|>"],
        )
        transformer = OmniGen2Transformer2DModel(
            in_channels=4,
            hidden_size=48,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=4,
            num_kv_heads=2,
            multiple_of=16,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(1024, 1024, 1024),
            text_feat_dim=24,
            timestep_scale=1000.0,
        )
        # From scratch the last layer is small, which would hide mistakes before it.
        torch.nn.init.normal_(transformer.norm_out.linear_2.weight, std=0.3)
        vae = AutoencoderKL(
            block_out_channels=(16, 16, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=0.5,
            shift_factor=0.1,
        )
        mllm = Qwen2_5_VLForConditionalGeneration(config)
    pipe = OmniGen2Pipeline(
        transformer.eval(), vae.eval(), FlowMatchEulerDiscreteScheduler(), mllm.eval(), tokenizer
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
