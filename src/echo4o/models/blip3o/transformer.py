"""What is trained of BLIP3-o: the queries, their projection, and the transformer over features.

Projection and transformer are diffusers' own (`PixArtAlphaTextProjection` and Lumina-Next's), which
the specification found identical to the released ones (benchmarks and transfer, section 2.1).

Shape letters: B pictures, N feature tokens (rows of the grid after each other), D feature channels,
Q queries, H values of the language model's states.
"""

from typing import Any

import torch
from diffusers import ConfigMixin, LuminaNextDiT2DModel, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection, get_2d_rotary_pos_embed_lumina
from torch import Tensor, nn

RELEASED = {"4B": {"text_size": 2048}, "8B": {"text_size": 3584}}
"""Sizes of the released models, where they are not the defaults of the class."""
_TIME_SCALE = 1000.0
"""The scheduler's timesteps run to it."""


class Blip3oTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Noisy features and the states of the queries -> velocity (noise minus data)."""

    _supports_gradient_checkpointing = True
    _no_split_modules = ["LuminaNextDiTBlock"]
    _skip_layerwise_casting_patterns = ["patch_embedder", "norm"]

    @register_to_config
    def __init__(
        self,
        text_size: int = 3584,
        num_queries: int = 64,
        feature_channels: int = 1792,
        grid: int = 8,
        hidden_size: int = 1792,
        num_layers: int = 24,
        num_attention_heads: int = 28,
        ffn_dim_multiplier: float = 1.5,
        multiple_of: int = 256,
        norm_eps: float = 1e-5,
        system_line: str = "You are a helpful assistant.",
        prompt_prefix: str = "",
        answer_start: str = "<|im_start|>assistant\n",
    ) -> None:
        """Build the modules.

        Args:
            text_size: H.
            num_queries: Q.
            feature_channels: D.
            grid: rows and columns of feature tokens; N is its square.
            hidden_size: width of the transformer.
            num_layers: blocks.
            num_attention_heads: of self-attention and of attention to the queries.
            ffn_dim_multiplier: of the feed-forward size, before it is rounded up.
            multiple_of: what the feed-forward size is rounded up to.
            norm_eps: of the RMS norms.
            system_line: the system turn in front of every prompt.
            prompt_prefix: what the user's turn says before the prompt. The released models were
                trained with a fixed sentence that ends in "caption:"; the specification does not
                give its words, so it is empty here, which is UNVERIFIED for released weights.
            answer_start: what stands between the user's turn and the image token; UNVERIFIED, too:
                it is how Qwen2.5's chat form begins an answer.

        Raises:
            ValueError: heads and hidden size do not fit together.
        """
        super().__init__()
        if hidden_size % (4 * num_attention_heads):
            raise ValueError(
                f"`hidden_size` {hidden_size} must be a multiple of 4 * {num_attention_heads} "
                "(`num_attention_heads`): positions take a quarter of each head"
            )
        self.latent_queries = nn.Parameter(torch.randn(1, num_queries, text_size) * text_size**-0.5)
        self.projection = PixArtAlphaTextProjection(text_size, hidden_size)
        self.dit = LuminaNextDiT2DModel(
            sample_size=grid,
            patch_size=1,
            in_channels=feature_channels,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_attention_heads=num_attention_heads,
            num_kv_heads=num_attention_heads,
            multiple_of=multiple_of,
            ffn_dim_multiplier=ffn_dim_multiplier,
            norm_eps=norm_eps,
            learn_sigma=False,
            cross_attention_dim=hidden_size,
        )
        del self.dit.pad_token  # never used, never initialised, and in no released checkpoint
        self.gradient_checkpointing = False

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks."""
        blocks: nn.ModuleList = self.dit.layers
        return blocks

    def forward(self, features: Tensor, sigmas: Tensor, condition: Tensor) -> Tensor:
        """Velocities (B, N, D), noise minus data.

        Args:
            features: noisy (B, N, D): (1 - sigma) * data + sigma * noise.
            sigmas: (B,) in [0, 1], 1 is noise.
            condition: states of the queries (B, Q, H); zeros stand for no text.

        Raises:
            ValueError: another number of feature tokens or channels.
        """
        config, dit = self.config, self.dit
        count, grid = len(features), config.grid
        if features.shape[1:] != (grid * grid, config.feature_channels):
            raise ValueError(
                f"features must have the shape (pictures, {grid * grid}, "
                f"{config.feature_channels}), got {tuple(features.shape)}"
            )
        dtype = self.latent_queries.dtype
        text = self.projection(condition.to(dtype))
        head = config.hidden_size // config.num_attention_heads
        # A part of the released table of 384 x 384 positions: they count from the same corner.
        positions = get_2d_rotary_pos_embed_lumina(head, grid, grid)
        squares = features.to(dtype).transpose(1, 2).reshape(count, -1, grid, grid)
        states, mask, _, rotary = dit.patch_embedder(squares, positions.to(features.device))
        text_mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        temb = dit.time_caption_embed(sigmas.float() * _TIME_SCALE, text, text_mask)
        for layer in dit.layers:
            inputs: tuple[Any, ...] = (states, mask, rotary, text, text_mask, temb, {})
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                states = self._gradient_checkpointing_func(layer, *inputs)
            else:
                states = layer(*inputs)
        velocity: Tensor = dit.norm_out(states, temb)  # a patch is one token: nothing to unfold
        return velocity
