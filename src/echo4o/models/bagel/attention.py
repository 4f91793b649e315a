"""Attention of the two experts together, and what all layers of one forward share.

Shape letters: U and G tokens of the two experts, T = U + G, S rows, L tokens per row, H query
heads, K key/value heads, D values per head, C hidden size.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import Qwen2Config
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .. import native
from .cache import ContextCache
from .functional import Linear, RmsNorm, rotate
from .layout import Layout, PackedLayout, Span

MANY_KEYS = 4
"""So many keys a query are worth a copy of the queries."""
Rows = Tensor | bool
"""Which tokens of one expert: all, none, or those with these row numbers."""


class Seen(NamedTuple):
    """A span with what its attention needs."""

    span: Span
    mask: Tensor | None
    """(1, 1, tokens, keys) additive; None when everything is seen, or `causal` says what."""
    causal: bool
    """Plain causal attention: the kernel knows how."""
    read: bool
    """Whether somebody reads what the last layer makes of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What all layers of one forward share."""

    layout: Layout
    """Maps tokens to rows and back."""
    rotary: Tensor
    """(2, S, L, 1, D) cosines and sines in row layout."""
    mask: Tensor | None = None
    """(S, 1, L, L) additive among the tokens of padded rows; not with `spans`."""
    spans: tuple[tuple[Seen, ...], ...] | None = None
    """For each sample its spans, attended to one by one; needed with a cache."""
    cache: ContextCache | None = None
    """Context of every sample, seen by all its tokens; theirs are put behind it."""
    freeze_und: bool = False
    """Cut all gradients through the understanding expert."""
    und_read: Rows = True
    """The final states that somebody reads; the last layer finishes no others."""
    gen_read: Rows = True
    """The same for the generation expert."""
    gen_repeats: int = 1
    """So many times the first tokens of the generation expert come again, until they are mixed."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Pass":
        """The same on another device; accelerate calls this when layers are spread out."""

        def move(given: Tensor) -> Tensor:
            return given.to(device, non_blocking=non_blocking)

        spans = self.spans
        if spans is not None:
            spans = tuple(
                tuple(s if s.mask is None else s._replace(mask=move(s.mask)) for s in sample)
                for sample in spans
            )
        und, gen = self.und_read, self.gen_read
        return replace(
            self,
            layout=self.layout.to(device) if isinstance(self.layout, PackedLayout) else self.layout,
            rotary=move(self.rotary),
            mask=None if self.mask is None else move(self.mask),
            spans=spans,
            und_read=move(und) if isinstance(und, Tensor) else und,
            gen_read=move(gen) if isinstance(gen, Tensor) else gen,
        )

    def runs(self, gen_GC: Tensor) -> bool:
        """Whether the generation expert has work.

        While training it always has: parameters that see no token must get gradients of zero.
        """
        return len(gen_GC) > 0 or torch.is_grad_enabled()

    def wants_und(self, is_last_layer: bool) -> bool:
        """Whether somebody reads what a layer makes of the understanding expert's tokens."""
        return not is_last_layer or self.und_read is not False

    def wants_gen(self, is_last_layer: bool) -> bool:
        """The same for the generation expert."""
        return not is_last_layer or self.gen_read is not False

    def und_gradients(self) -> AbstractContextManager[None]:
        """Context in which the understanding expert computes."""
        return torch.no_grad() if self.freeze_und else nullcontext()


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
        self.q_proj, self.q_proj_moe_gen = (Linear(width, width) for _ in range(2))
        self.k_proj, self.k_proj_moe_gen = (Linear(width, kv_width) for _ in range(2))
        self.v_proj, self.v_proj_moe_gen = (Linear(width, kv_width) for _ in range(2))
        self.o_proj, self.o_proj_moe_gen = (Linear(width, width, bias=False) for _ in range(2))
        self.q_norm, self.q_norm_moe_gen = (RmsNorm(self.head_dim, eps=eps) for _ in range(2))
        self.k_norm, self.k_norm_moe_gen = (RmsNorm(self.head_dim, eps=eps) for _ in range(2))

    def forward(self, und_UC: Tensor, gen_GC: Tensor, shared: Pass) -> tuple[Tensor, Tensor]:
        """Normed tokens of both experts in, what the attention adds to those that go on out."""
        layout = shared.layout
        with shared.und_gradients():
            und = self._und_heads(und_UC)
        gen = self._gen_heads(gen_GC, shared) if shared.runs(gen_GC) else (gen_GC,) * 3
        query, key, value = (
            layout.to_rows(u, g).view(layout.rows, layout.length, -1, self.head_dim)
            for u, g in zip(und, gen, strict=True)
        )
        query, key = rotate(query, shared.rotary), rotate(key, shared.rotary)
        if shared.spans is None:
            query, key, value = (x.transpose(1, 2) for x in (query, key, value))
            mixed = self._attend(query, key, value, shared.mask)
        else:
            query, key, value = (x.flatten(0, 1).transpose(0, 1)[None] for x in (query, key, value))
            mixed = self._attend_by_span(query, key, value, shared, shared.spans)
        und_UC, gen_GC = layout.from_rows(mixed)
        if self.is_last:
            und_UC, gen_GC = chosen(und_UC, shared.und_read), chosen(gen_GC, shared.gen_read)
        if shared.wants_und(self.is_last):
            with shared.und_gradients():
                und_UC = self.o_proj(und_UC)
        if shared.wants_gen(self.is_last) and shared.runs(gen_GC):
            gen_GC = self.o_proj_moe_gen(gen_GC)
        return und_UC, gen_GC

    def _attend_by_span(
        self,
        query_1HTD: Tensor,
        key_1KTD: Tensor,
        value_1KTD: Tensor,
        shared: Pass,
        samples: Sequence[Sequence[Seen]],
    ) -> Tensor:
        """Tokens in sequence order (1, ..., T, D) -> (1, T, H * D); nothing masked is computed."""
        wanted = shared.wants_und(self.is_last) or shared.wants_gen(self.is_last)
        mixed = []
        for row, sample in enumerate(samples):
            tokens = slice(sample[0].span.start, sample[-1].span.end)
            key, value = key_1KTD[:, :, tokens], value_1KTD[:, :, tokens]
            if shared.cache is not None:
                key, value = shared.cache.write(self.layer_idx, row, key[0], value[0])
            for span, mask, causal, read in sample if wanted else ():
                query = query_1HTD[:, :, span.start : span.end]
                if self.is_last and not read:
                    mixed.append(query.new_zeros(1, query.shape[2], query.shape[1] * self.head_dim))
                    continue
                seen = _picked(key, span.keys), _picked(value, span.keys)
                mixed.append(self._attend(query, *seen, mask, causal=causal))
        return torch.cat(mixed, dim=1) if wanted else query_1HTD.transpose(1, 2).flatten(2)

    def _und_heads(self, tokens_UC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed queries, normed keys and values, each (U, heads * D)."""
        query = self._per_head(self.q_norm, self.q_proj(tokens_UC))
        return query, self._per_head(self.k_norm, self.k_proj(tokens_UC)), self.v_proj(tokens_UC)

    def _gen_heads(self, tokens_GC: Tensor, shared: Pass) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the generation expert."""
        repeats = shared.gen_repeats if self.layer_idx == 0 else 1
        if repeats > 1:
            tokens_GC = tokens_GC[: len(tokens_GC) // repeats]
        query = self._per_head(self.q_norm_moe_gen, self.q_proj_moe_gen(tokens_GC))
        key = self._per_head(self.k_norm_moe_gen, self.k_proj_moe_gen(tokens_GC))
        value = self.v_proj_moe_gen(tokens_GC)
        if repeats == 1:
            return query, key, value
        return query.repeat(repeats, 1), key.repeat(repeats, 1), value.repeat(repeats, 1)

    def _per_head(self, norm: nn.Module, tokens_TC: Tensor) -> Tensor:
        normed: Tensor = norm(
            tokens_TC.view(len(tokens_TC), tokens_TC.shape[1] // self.head_dim, self.head_dim)
        )
        return normed.flatten(1)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        causal: bool = False,
    ) -> Tensor:
        """(S, H, L, D) queries over (S, K, keys, D) -> (S, L, H * D)."""
        name = attention_name(self.config)
        on_cpu, grouped = query.device.type == "cpu", self.num_key_value_groups > 1
        is_open = name == "sdpa" and mask is None and not causal
        few = MANY_KEYS * query.shape[2] <= key.shape[2]
        if is_open and native.can_attend(query, key, value):
            mixed = native.attend(query, key, value, self.head_dim**-0.5)
        elif is_open and on_cpu and grouped and few:
            # Heads that share keys as more queries of one head: the kernel makes larger blocks.
            folded = query.reshape(len(query), key.shape[1], -1, self.head_dim)
            mixed = F.scaled_dot_product_attention(folded, key, value)
            mixed = mixed.view(query.shape).transpose(1, 2)
        elif name == "sdpa" and (mask is None or on_cpu):
            # Grouped heads without a copy; with a mask only the CPU kernel can do that.
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=grouped
            ).transpose(1, 2)
        else:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
            given = mask if name != "flex_attention" or mask is None else _block_mask(mask)
            mixed, _ = attend(
                self, query, key, value, given, scaling=self.head_dim**-0.5, is_causal=False
            )
        return mixed.flatten(2)


def attention_name(config: Qwen2Config) -> str:
    """The implementation that is set; a model that was not loaded has none yet."""
    return config._attn_implementation or "sdpa"


def spans_of(
    layout: Layout,
    dtype: torch.dtype,
    *,
    contexts: Sequence[int],
    read: Tensor | None = None,
    plain_causal: bool = True,
    device: torch.device | None = None,
) -> tuple[tuple[Seen, ...], ...]:
    """The spans of every sample, with their masks.

    Args:
        layout: of the tokens.
        dtype: of the masks.
        contexts: tokens in front of every sample, which all of its own see.
        read: (T,) whether somebody reads the final state at a place of the sequence, None: all.
        plain_causal: whether the kernel does causal attention without a mask.
        device: of the masks.
    """
    found = []
    for sample in layout.spans(contexts):
        seen = []
        for span in sample:
            count, keys = span.end - span.start, sum(end - start for start, end in span.keys)
            causal = span.causal and count > 1
            plain = causal and plain_causal and keys == count
            masked = causal and not plain
            mask = _causal_mask(count, keys, dtype, device) if masked else None
            is_read = read is None or bool(read[span.start : span.end].any())
            seen.append(Seen(span, mask, plain, is_read))
        found.append(tuple(seen))
    return tuple(found)


def _causal_mask(count: int, keys: int, dtype: torch.dtype, device: torch.device | None) -> Tensor:
    """(1, 1, count, keys): the queries are the last of the keys."""
    allowed = torch.ones(count, keys, dtype=torch.bool, device=device).tril_(keys - count)
    return _as_numbers(allowed, dtype)[None, None]


def _as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as numbers to add to attention scores; done once for all layers."""
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill_(~mask, float("-inf"))


def dense_mask(layout: PackedLayout, dtype: torch.dtype) -> Tensor:
    """(S, 1, L, L) additive mask of padded rows."""
    return _as_numbers(layout.mask(), dtype)


def _picked(tokens_1KTD: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
    """Some stretches of the tokens; a copy only where there are several."""
    parts = [tokens_1KTD[:, :, start:end] for start, end in places]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def chosen(tokens_TC: Tensor, rows: Rows) -> Tensor:
    """The rows that somebody reads; all when nobody does."""
    if isinstance(rows, Tensor):
        return tokens_TC.index_select(0, rows)
    return tokens_TC


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
