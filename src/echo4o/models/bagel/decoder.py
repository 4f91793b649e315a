"""The decoder: Qwen2 layers with two experts that share one attention (mixture of transformers).

Texts, markers and vision tokens use the understanding expert, latent tokens the generation expert
(`_moe_gen`). Shape letters: U and G tokens of the two experts, S rows, L tokens per row, H query
heads, K key/value heads, D values per head, C hidden size.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import Qwen2Config
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .cache import ContextCache
from .functional import RmsNorm, gated, plus, rotate
from .layout import Layout, PackedLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What all layers of one forward share."""

    layout: Layout
    """Maps tokens to padded rows and back."""
    rotary: Tensor
    """(2, S, L, 1, D) cosines and sines in row layout."""
    mask: Tensor | None
    """(S, 1, L, L) additive among the new tokens, 0 or -inf; None when all see each other."""
    cache: ContextCache | None = None
    """Context of every row, seen by all its tokens; theirs are put behind it."""
    freeze_und: bool = False
    """Cut all gradients through the understanding expert."""
    und_wanted: bool = True
    """Whether anybody reads the final states of the understanding expert."""
    gen_wanted: bool = True
    """The same for the generation expert."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Pass":
        """The same on another device; accelerate calls this when layers are spread out."""
        mask = None if self.mask is None else self.mask.to(device, non_blocking=non_blocking)
        layout = self.layout.to(device) if isinstance(self.layout, PackedLayout) else self.layout
        rotary = self.rotary.to(device, non_blocking=non_blocking)
        return replace(self, layout=layout, rotary=rotary, mask=mask)

    def runs(self, gen_GC: Tensor) -> bool:
        """Whether the generation expert has work.

        While training it always has: parameters that see no token must get gradients of zero.
        """
        return len(gen_GC) > 0 or torch.is_grad_enabled()

    def finishes_und(self, is_last_layer: bool) -> bool:
        """Whether somebody reads what a layer makes of the understanding expert's tokens."""
        return self.und_wanted or not is_last_layer

    def finishes_gen(self, is_last_layer: bool) -> bool:
        """The same for the generation expert."""
        return self.gen_wanted or not is_last_layer

    def und_gradients(self) -> AbstractContextManager[None]:
        """Context in which the understanding expert computes."""
        return torch.no_grad() if self.freeze_und else nullcontext()


def additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A bool mask as numbers to add to attention scores; done once for all layers."""
    if mask is None:
        return None
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill_(~mask, float("-inf"))


class JointAttention(nn.Module):
    """Each expert projects its own tokens; one softmax runs over all of them."""

    is_causal = False

    def __init__(self, config: Qwen2Config, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.is_last = layer_idx == config.num_hidden_layers - 1
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        width, eps = config.hidden_size, config.rms_norm_eps
        kv_width = config.num_key_value_heads * self.head_dim
        self.q_proj, self.q_proj_moe_gen = (nn.Linear(width, width) for _ in range(2))
        self.k_proj, self.k_proj_moe_gen = (nn.Linear(width, kv_width) for _ in range(2))
        self.v_proj, self.v_proj_moe_gen = (nn.Linear(width, kv_width) for _ in range(2))
        self.o_proj, self.o_proj_moe_gen = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.q_norm, self.q_norm_moe_gen = (RmsNorm(self.head_dim, eps=eps) for _ in range(2))
        self.k_norm, self.k_norm_moe_gen = (RmsNorm(self.head_dim, eps=eps) for _ in range(2))

    def forward(self, und_UC: Tensor, gen_GC: Tensor, shared: Pass) -> tuple[Tensor, Tensor]:
        """Normed tokens of both experts in, what the attention adds to each out."""
        layout = shared.layout
        with shared.und_gradients():
            und = self._und_heads(und_UC)
        gen = self._gen_heads(gen_GC) if shared.runs(gen_GC) else (gen_GC,) * 3
        query, key, value = (
            layout.to_rows(u, g).view(layout.rows, layout.length, -1, self.head_dim)
            for u, g in zip(und, gen, strict=True)
        )
        query = rotate(query, shared.rotary).transpose(1, 2)
        key, value = rotate(key, shared.rotary).transpose(1, 2), value.transpose(1, 2)
        if shared.cache is None:
            mixed = self._attend(query, key, value, shared.mask)
        else:
            mixed = self._attend_behind_context(query, key, value, shared)
        und_UC, gen_GC = layout.from_rows(mixed)
        if shared.finishes_und(self.is_last):
            with shared.und_gradients():
                und_UC = self.o_proj(und_UC)
        if shared.finishes_gen(self.is_last) and shared.runs(gen_GC):
            gen_GC = self.o_proj_moe_gen(gen_GC)
        return und_UC, gen_GC

    def _attend_behind_context(
        self, query_SHLD: Tensor, key_SKLD: Tensor, value_SKLD: Tensor, shared: Pass
    ) -> Tensor:
        """Row by row: each has its own number of keys, and may share their memory with others."""
        cache, mask = shared.cache, shared.mask
        assert cache is not None
        wanted = shared.finishes_und(self.is_last) or shared.finishes_gen(self.is_last)
        rows, heads, length, dim = query_SHLD.shape
        mixed = query_SHLD.new_empty(rows, length, heads * dim)  # padding is never read
        for row, count in enumerate(shared.layout.lens):
            new = key_SKLD[row, :, :count], value_SKLD[row, :, :count]
            context = cache.length(row)
            key, value = cache.write(self.layer_idx, row, *new)
            if wanted:  # else the cache is filled, and nobody reads the rest
                seen = None if mask is None else mask[row : row + 1, :, :count, :count]
                if seen is not None and context:
                    seen = F.pad(seen, (context, 0))
                query = query_SHLD[row : row + 1, :, :count]
                mixed[row, :count] = self._attend(query, key, value, seen)[0]
        return mixed

    def _und_heads(self, tokens_UC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed queries, normed keys and values, each (U, heads * D)."""
        query = self._per_head(self.q_norm, self.q_proj(tokens_UC))
        return query, self._per_head(self.k_norm, self.k_proj(tokens_UC)), self.v_proj(tokens_UC)

    def _gen_heads(self, tokens_GC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the generation expert."""
        query = self._per_head(self.q_norm_moe_gen, self.q_proj_moe_gen(tokens_GC))
        key = self._per_head(self.k_norm_moe_gen, self.k_proj_moe_gen(tokens_GC))
        return query, key, self.v_proj_moe_gen(tokens_GC)

    def _per_head(self, norm: nn.Module, tokens_TC: Tensor) -> Tensor:
        normed: Tensor = norm(
            tokens_TC.view(len(tokens_TC), tokens_TC.shape[1] // self.head_dim, self.head_dim)
        )
        return normed.flatten(1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """(S, H, L, D) queries over (S, K, keys, D) -> (S, L, H * D)."""
        name = self.config._attn_implementation or "sdpa"
        if name == "sdpa" and (mask is None or query.device.type == "cpu"):
            # Grouped heads without a copy; with a mask only the CPU kernel can do that.
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, enable_gqa=self.num_key_value_groups > 1
            ).transpose(1, 2)
        else:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
            given = mask if name != "flex_attention" or mask is None else _block_mask(mask)
            mixed, _ = attend(
                self, query, key, value, given, scaling=self.head_dim**-0.5, is_causal=False
            )
        return mixed.flatten(2)


def _block_mask(mask_SILK: Tensor) -> BlockMask:
    """The form for flex attention; its other one, added to scores, crashes on the CPU (2.13)."""
    allowed = mask_SILK[:, 0] == 0
    rows, length, keys = allowed.shape

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return allowed[row, query, key]

    return create_block_mask(visible, rows, None, length, keys, device=str(allowed.device))


def eager_attention(
    module: JointAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Attention written out, with the signature of transformers' attention functions."""
    key, value = (x.repeat_interleave(module.num_key_value_groups, dim=1) for x in (key, value))
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


class SwiGlu(nn.Module):
    """The gated feed-forward block of Qwen2."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, tokens_TC: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        inner = gated(self.gate_proj(tokens_TC), self.up_proj(tokens_TC))
        return cast(Tensor, self.down_proj(inner))


class BagelDecoderLayer(GradientCheckpointingLayer):
    """One pre-norm layer of both experts."""

    def __init__(self, config: Qwen2Config, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = JointAttention(config, layer_idx)
        self.mlp, self.mlp_moe_gen = (SwiGlu(config) for _ in range(2))
        size, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RmsNorm(size, eps=eps)
        self.input_layernorm_moe_gen = RmsNorm(size, eps=eps)
        self.post_attention_layernorm = RmsNorm(size, eps=eps)
        self.post_attention_layernorm_moe_gen = RmsNorm(size, eps=eps)

    def forward(self, und_UC: Tensor, gen_GC: Tensor, shared: Pass) -> tuple[Tensor, Tensor]:
        """Hidden states of both experts in and out."""
        with shared.und_gradients():
            und_normed = self.input_layernorm(und_UC)
        runs_gen = shared.runs(gen_GC)
        gen_normed = self.input_layernorm_moe_gen(gen_GC) if runs_gen else gen_GC
        und_added, gen_added = self.self_attn(und_normed, gen_normed, shared)
        if shared.finishes_und(self.self_attn.is_last):
            with shared.und_gradients():
                und_UC = plus(und_UC, und_added)
                und_UC = plus(und_UC, self.mlp(self.post_attention_layernorm(und_UC)))
        if shared.finishes_gen(self.self_attn.is_last) and runs_gen:
            gen_GC = plus(gen_GC, gen_added)
            normed = self.post_attention_layernorm_moe_gen(gen_GC)
            gen_GC = plus(gen_GC, self.mlp_moe_gen(normed))
        return und_UC, gen_GC


class BagelDecoder(nn.Module):
    """Token embedding, layers and one final norm per expert."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            BagelDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = RmsNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.norm_moe_gen = RmsNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, und_UC: Tensor, gen_GC: Tensor, shared: Pass) -> tuple[Tensor, Tensor]:
        """Embedded tokens of both experts in, final-normed hidden states out.

        States that `shared` does not want are unfinished.
        """
        for layer in self.layers:
            und_UC, gen_GC = layer(und_UC, gen_GC, shared)
        with shared.und_gradients():
            und_UC = self.norm(und_UC)
        return und_UC, self.norm_moe_gen(gen_GC)


class BagelLanguageModel(nn.Module):
    """The decoder with its output layer for text."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.model = BagelDecoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
