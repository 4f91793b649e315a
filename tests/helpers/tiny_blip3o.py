"""A tiny random BLIP3-o, made in memory: real classes, a byte tokenizer, small pictures."""

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from tiny_omnigen2 import make_omnigen2

from echo4o.models.blip3o import Blip3oPipeline, Blip3oTransformer, EvaTower
from echo4o.models.blip3o.prompting import ADDED_TOKENS

CHANNELS, GRID, TEXT = 16, 4, 24
_FOUR = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def make_blip3o(seed: int = 0, *, direct: bool = False) -> Blip3oPipeline:
    """With a UNet as released, or (`direct`) with an autoencoder that decodes features."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        donor = make_omnigen2(seed)
        donor.processor.add_tokens(list(ADDED_TOKENS), special_tokens=True)
        donor.mllm.resize_token_embeddings(len(donor.processor), mean_resizing=False)
        # From scratch all texts look alike to the queries.
        for name, weight in donor.mllm.model.language_model.named_parameters():
            if weight.ndim == 2:
                torch.nn.init.normal_(weight, std=1.0 if "embed" in name else 0.3)
        transformer = Blip3oTransformer(
            text_size=TEXT,
            num_queries=GRID * GRID,
            feature_channels=CHANNELS,
            grid=GRID,
            hidden_size=32,
            num_layers=2,
            num_attention_heads=4,
        )
        # From scratch the text has no weight, which would hide mistakes before it.
        for layer in transformer.layers:
            torch.nn.init.ones_(layer.gate)
            torch.nn.init.normal_(layer.norm1.linear.weight, std=0.3)
        torch.nn.init.normal_(transformer.dit.norm_out.linear_2.weight, std=0.3)
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            latent_channels=CHANNELS if direct else 4,
            scaling_factor=0.5,
            **_FOUR,
        )
        unet = UNet2DConditionModel(
            sample_size=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=CHANNELS,
            attention_head_dim=(1, 2),
            norm_num_groups=4,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + CHANNELS,
        )
    pipe = Blip3oPipeline(
        transformer=transformer.eval(),
        mllm=donor.mllm,
        processor=donor.processor,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        unet=None if direct else unet.eval(),
        decoder_scheduler=None if direct else EulerDiscreteScheduler(),
        picture_side=32,
        decoder_steps=2,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_tower(seed: int = 0) -> EvaTower:
    """A tower whose features fit `make_blip3o`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return EvaTower(
            width=CHANNELS, depth=2, heads=2, mlp_size=32, patch_size=4, side=32, grid=GRID
        ).eval()
