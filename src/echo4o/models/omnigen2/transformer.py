"""OmniGen2's transformer: captions, reference pictures and the picture in one sequence.

The block is Lumina-2's of diffusers. What is OmniGen2's own stands here: references with their own
refiner and index embedding, three-axis positions of captions, pictures of unequal sizes in a batch.

Shape letters: T targets, S sequences, L tokens of a sequence, N tokens of a picture, D hidden size,
C latent channels, H and W latent rows and columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.embeddings import Timesteps
from diffusers.models.normalization import LuminaLayerNormContinuous
from diffusers.models.transformers.transformer_lumina2 import (
    Lumina2CombinedTimestepCaptionEmbedding,
    Lumina2TransformerBlock,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .positions import caption_positions, picture_positions, rotations

MAX_REFERENCES = 5
RELEASED = {
    "hidden_size": 2520,
    "num_layers": 32,
    "num_attention_heads": 21,
    "num_kv_heads": 7,
    "axes_dim_rope": (40, 40, 40),
    "axes_lens": (10000, 10000, 10000),
    "text_feat_dim": 2048,
    "timestep_scale": 1000.0,
}
"""Sizes of the released model, where they are not the defaults of the class."""
Picture = tuple[Tensor, tuple[int, int]]
"""Tokens (N, D), and the rows and columns of patches."""
_TIME_SIZE = 1024
"""Largest width of the time embedding (Lumina-2)."""


class View(NamedTuple):
    """One pass over a picture; guidance looks at each picture through several."""

    target: int
    """Which of the noisy latents."""
    caption: int
    """Which of the captions."""
    references: bool = True
    """Whether the picture's references are seen."""


class OmniGen2Transformer2DModel(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Noisy latents, captions and references -> velocity (data minus noise).

    Defaults are those of the original class; a released checkpoint brings its own configuration.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["Lumina2TransformerBlock"]
    _skip_layerwise_casting_patterns = ["x_embedder", "norm"]

    @register_to_config
    def __init__(
        self,
        patch_size: int = 2,
        in_channels: int = 16,
        out_channels: int | None = None,
        hidden_size: int = 2304,
        num_layers: int = 26,
        num_refiner_layers: int = 2,
        num_attention_heads: int = 24,
        num_kv_heads: int = 8,
        multiple_of: int = 256,
        ffn_dim_multiplier: float | None = None,
        norm_eps: float = 1e-5,
        axes_dim_rope: tuple[int, int, int] = (32, 32, 32),
        axes_lens: tuple[int, int, int] = (300, 512, 512),
        text_feat_dim: int = 1024,
        timestep_scale: float = 1.0,
        sample_size: int = 128,
    ) -> None:
        """Build the modules.

        `sample_size` changes no weight: it is the side, in latents, of a picture of no given size.

        Raises:
            ValueError: heads, key/value heads and position axes do not fit together.
        """
        super().__init__()
        head_size = hidden_size // num_attention_heads
        if head_size * num_attention_heads != hidden_size or head_size != sum(axes_dim_rope):
            raise ValueError(
                f"`hidden_size` {hidden_size} over {num_attention_heads} heads must give the sum "
                f"of `axes_dim_rope` {tuple(axes_dim_rope)}"
            )
        if num_attention_heads % num_kv_heads:
            raise ValueError(
                f"`num_attention_heads` {num_attention_heads} must be a multiple of `num_kv_heads` "
                f"{num_kv_heads}"
            )
        patch_values = patch_size * patch_size * in_channels
        self.x_embedder = nn.Linear(patch_values, hidden_size)
        self.ref_image_patch_embedder = nn.Linear(patch_values, hidden_size)
        self.image_index_embedding = nn.Parameter(torch.empty(MAX_REFERENCES, hidden_size))
        nn.init.normal_(self.image_index_embedding, std=0.02)
        self.time_caption_embed = Lumina2CombinedTimestepCaptionEmbedding(
            hidden_size=hidden_size, cap_feat_dim=text_feat_dim, norm_eps=norm_eps
        )
        # The factor comes after the frequencies: at 1000 radians the order shows in fp32.
        self.time_caption_embed.time_proj = Timesteps(
            256, flip_sin_to_cos=True, downscale_freq_shift=0.0, scale=timestep_scale
        )

        def blocks(count: int, *, modulation: bool = True) -> nn.ModuleList:
            shape = (hidden_size, num_attention_heads, num_kv_heads, multiple_of)
            rest = (ffn_dim_multiplier, norm_eps)
            made = (Lumina2TransformerBlock(*shape, *rest, modulation) for _ in range(count))
            return nn.ModuleList(made)

        self.noise_refiner = blocks(num_refiner_layers)
        self.ref_image_refiner = blocks(num_refiner_layers)
        self.context_refiner = blocks(num_refiner_layers, modulation=False)
        self.layers = blocks(num_layers)
        self.norm_out = LuminaLayerNormContinuous(
            embedding_dim=hidden_size,
            conditioning_embedding_dim=min(hidden_size, _TIME_SIZE),
            elementwise_affine=False,
            eps=1e-6,
            out_dim=patch_size * patch_size * (out_channels or in_channels),
        )
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: Tensor | Sequence[Tensor],
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        ref_image_hidden_states: Sequence[Sequence[Tensor] | None] | None = None,
        views: Sequence[View] | None = None,
    ) -> Tensor | list[Tensor]:
        """Velocities, data minus noise.

        Args:
            hidden_states: noisy latents (T, C, H, W), or T of them (C, H, W) of any sizes.
            timestep: (T,) in [0, 1], 0 is noise and 1 the picture.
            encoder_hidden_states: text states (captions, L, text size).
            encoder_attention_mask: (captions, L), 1 for text and 0 for padding at its end.
            ref_image_hidden_states: per target its reference latents (C, H, W), or None.
            views: what to look at; default: each target once, with the caption of its number.
                Targets, captions and references are refined once, however many views they have.

        Returns:
            One velocity (C, H, W) per view, stacked when `hidden_states` is a tensor.

        Raises:
            ValueError: sizes that are no multiple of the patch, more than 5 references, or a
                sequence longer than the position tables.
        """
        dtype = self.x_embedder.weight.dtype
        temb = self._time_embedding(timestep, dtype)
        views = views or [View(number, number) for number in range(len(hidden_states))]
        captions = self._captions(encoder_hidden_states.to(dtype), encoder_attention_mask)
        patched = [self._patches(one) for one in hidden_states]
        targets = self._refined(
            self.noise_refiner, [(self.x_embedder(one), grid) for one, grid in patched], temb
        )
        references = self._references(ref_image_hidden_states or [], temb)

        joined, positions = [], []
        for view in views:
            caption = captions[view.caption]
            seen = references.get(view.target, []) if view.references else []
            pictures = [*seen, targets[view.target]]
            joined.append(torch.cat([caption, *(tokens for tokens, _ in pictures)]))
            where, shift = [caption_positions(len(caption))], len(caption)
            for _, grid in pictures:
                where.append(picture_positions(grid, shift))
                shift += max(grid)
            positions.append(torch.cat(where).to(temb.device))
        own_temb = temb[torch.tensor([view.target for view in views], device=temb.device)]
        states = self._through(self.layers, joined, positions, own_temb)
        values = self.norm_out(states, own_temb)
        velocities = []
        for row, sequence, view in zip(values, joined, views, strict=True):
            tokens, grid = targets[view.target]
            velocities.append(
                self._unpatched(row[len(sequence) - len(tokens) : len(sequence)], grid)
            )
        return torch.stack(velocities) if isinstance(hidden_states, Tensor) else velocities

    def _captions(self, text: Tensor, mask: Tensor) -> list[Tensor]:
        """Text states (S, L, text size) -> one (own length, D) each."""
        keys = mask.bool()
        states = self.time_caption_embed.caption_embedder(text)
        rotary = self._rotations(caption_positions(text.shape[1]).to(text.device)[None])
        padding = None if bool(keys.all()) else keys
        for block in self.context_refiner:
            states = self._run(block, states, padding, rotary, None)
        lengths = keys.sum(dim=1).tolist()
        return [one[:length] for one, length in zip(states, lengths, strict=True)]

    def _references(
        self, latents: Sequence[Sequence[Tensor] | None], temb: Tensor
    ) -> dict[int, list[Picture]]:
        """References by target, each refined alone at its target's time."""
        pictures: list[Picture] = []
        owners: list[int] = []
        for target, own in enumerate(latents):
            if len(own or ()) > MAX_REFERENCES:
                raise ValueError(f"at most {MAX_REFERENCES} references, got {len(own or ())}")
            for index, one in zip(self.image_index_embedding, own or (), strict=False):
                patches, grid = self._patches(one)
                pictures.append((self.ref_image_patch_embedder(patches) + index, grid))
                owners.append(target)
        if not pictures:
            return {}
        times = temb[torch.tensor(owners, device=temb.device)]
        refined: dict[int, list[Picture]] = {}
        found = self._refined(self.ref_image_refiner, pictures, times)
        for target, picture in zip(owners, found, strict=True):
            refined.setdefault(target, []).append(picture)
        return refined

    def _refined(
        self, blocks: nn.ModuleList, pictures: Sequence[Picture], temb: Tensor
    ) -> list[Picture]:
        """Pictures, each alone. Its place among others does not matter to itself."""
        tokens = [own for own, _ in pictures]
        positions = [picture_positions(grid, 0).to(temb.device) for _, grid in pictures]
        states = self._through(blocks, tokens, positions, temb)
        return [(row[: len(own)], grid) for row, (own, grid) in zip(states, pictures, strict=True)]

    def _through(
        self,
        blocks: nn.ModuleList,
        tokens: Sequence[Tensor],
        positions: Sequence[Tensor],
        temb: Tensor,
    ) -> Tensor:
        """Sequences of any lengths through modulated blocks, padded at their ends (S, L, D)."""
        lengths = torch.tensor([len(one) for one in tokens], device=temb.device)
        states = pad_sequence(list(tokens), batch_first=True)
        rotary = self._rotations(pad_sequence(list(positions), batch_first=True))
        mask = torch.arange(states.shape[1], device=temb.device) < lengths[:, None]
        padding = None if len(set(lengths.tolist())) == 1 else mask
        for block in blocks:
            states = self._run(block, states, padding, rotary, temb)
        return states

    def _run(
        self,
        block: nn.Module,
        states: Tensor,
        padding: Tensor | None,
        rotary: Tensor,
        temb: Tensor | None,
    ) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            out: Tensor = self._gradient_checkpointing_func(block, states, padding, rotary, temb)
            return out
        result: Tensor = block(states, padding, rotary, temb)
        return result

    def _time_embedding(self, times: Tensor, dtype: torch.dtype) -> Tensor:
        embed = self.time_caption_embed
        # Times are rounded to the model's type before they are scaled, as in the released pipeline.
        temb: Tensor = embed.timestep_embedder(embed.time_proj(times.to(dtype)).to(dtype))
        return temb

    def _rotations(self, positions: Tensor) -> Tensor:
        return rotations(positions, self.config.axes_dim_rope, self.config.axes_lens)

    def _patches(self, latent: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(C, H, W) -> (N, patch values), rows and columns of patches."""
        side = self.config.patch_size
        channels, height, width = latent.shape
        if height % side or width % side:
            raise ValueError(
                f"latent sizes must be multiples of {side}, got {height} x {width}; make picture "
                f"sizes multiples of {8 * side}"
            )
        rows, columns = height // side, width // side
        cut = latent.reshape(channels, rows, side, columns, side)
        patches = cut.permute(1, 3, 2, 4, 0).reshape(rows * columns, -1)
        return patches.to(self.x_embedder.weight.dtype), (rows, columns)

    def _unpatched(self, values: Tensor, grid: tuple[int, int]) -> Tensor:
        """(N, patch values) -> (C, H, W)."""
        side, (rows, columns) = self.config.patch_size, grid
        cut = values.reshape(rows, columns, side, side, -1)
        return cut.permute(4, 0, 2, 1, 3).reshape(-1, rows * side, columns * side)
