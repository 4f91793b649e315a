"""The vision tower: a SigLIP encoder that takes packed patches of several pictures.

Shape letters: N patches of all pictures, P pictures, L patches of the largest, H heads, D per head.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SiglipVisionConfig

from .functional import Linear


class VisionTower(nn.Module):
    """Holds the encoder under the name that checkpoints use."""

    def __init__(self, config: SiglipVisionConfig, grid_side: int) -> None:
        super().__init__()
        self.vision_model = VisionEncoder(config, grid_side)

    def forward(self, patches: Tensor, position_ids: Tensor, lens: list[int]) -> Tensor:
        """(N, 3 * patch**2) -> (N, vision hidden size); `lens` are patches per picture."""
        features: Tensor = self.vision_model(patches, position_ids, lens)
        return features


class VisionEncoder(nn.Module):
    """Patch projection, learned positions, pre-norm layers, final norm; no pooling."""

    def __init__(self, config: SiglipVisionConfig, grid_side: int) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        patch_dim = config.num_channels * config.patch_size**2
        self.embeddings.patch_embedding = Linear(patch_dim, config.hidden_size)
        self.embeddings.position_embedding = nn.Embedding(grid_side**2, config.hidden_size)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(
            BagelVisionLayer(config) for _ in range(config.num_hidden_layers)
        )
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False

    def forward(self, patches: Tensor, position_ids: Tensor, lens: list[int]) -> Tensor:
        """See `VisionTower.forward`."""
        hidden = self.embeddings.patch_embedding(patches)  # type: ignore[operator]
        hidden = hidden + self.embeddings.position_embedding(position_ids)  # type: ignore[operator]
        rows, mask = _to_rows(hidden, lens)
        for layer in cast(nn.ModuleList, self.encoder.layers):
            rows = layer(rows, mask)
        hidden = rows.flatten(0, 1) if mask is None else rows[mask[:, 0, 0]]
        normed: Tensor = self.post_layernorm(hidden)
        return normed


class BagelVisionLayer(nn.Module):
    """One pre-norm layer; patches see all patches of their own picture."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        self.num_heads = config.num_attention_heads
        self.layer_norm1 = nn.LayerNorm(size, eps=eps)
        self.self_attn = nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.self_attn.add_module(name, Linear(size, size))
        self.layer_norm2 = nn.LayerNorm(size, eps=eps)
        self.mlp = nn.Module()
        self.mlp.fc1 = Linear(size, config.intermediate_size)
        self.mlp.fc2 = Linear(config.intermediate_size, size)

    def forward(self, rows_PLC: Tensor, mask: Tensor | None) -> Tensor:
        """Padded rows in, padded rows out; `mask` (P, 1, 1, L) hides the padding."""
        attention, mlp = self.self_attn, self.mlp
        normed = self.layer_norm1(rows_PLC)
        query, key, value = (
            cast(nn.Linear, proj)(normed)
            .view(*normed.shape[:2], self.num_heads, -1)
            .transpose(1, 2)
            for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        rows_PLC = rows_PLC + attention.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[operator]
        inner = F.gelu(mlp.fc1(self.layer_norm2(rows_PLC)), approximate="tanh")  # type: ignore[operator]
        return cast(Tensor, rows_PLC + mlp.fc2(inner))  # type: ignore[operator]


def _to_rows(hidden: Tensor, lens: list[int]) -> tuple[Tensor, Tensor | None]:
    """Packed (N, C) -> padded (P, L, C) and a mask, or no mask when all pictures are equal."""
    if len(set(lens)) == 1:
        return hidden.view(len(lens), lens[0], -1), None
    rows = nn.utils.rnn.pad_sequence(list(torch.split(hidden, lens)), batch_first=True)
    counts = torch.tensor(lens, device=hidden.device)
    valid = torch.arange(rows.shape[1], device=hidden.device) < counts[:, None]
    return rows, valid[:, None, None]
