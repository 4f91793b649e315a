"""Layouts: how the tokens of both experts become one padded row per sample, and back.

Shape letters: U tokens of the understanding expert, G of the generation expert, T = U + G,
S samples (rows), L tokens of the longest row, C values per token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

PAIRS_PER_CALL = 4096
"""What the call of an attention kernel costs, in pairs of tokens (forward and backward, CPU)."""
_CODES = {"causal": 0, "full": 1, "noise": 2}


class Span(NamedTuple):
    """Tokens of one segment, and what they see besides each other."""

    start: int
    """First place in the sequence."""
    end: int
    keys: tuple[tuple[int, int], ...]
    """What they see, as stretches of the sample with its context in front; themselves last."""
    causal: bool
    """Whether a token sees only the earlier ones of its own segment."""


class _ToRows(torch.autograd.Function):
    """Gather tokens into padded rows; the backward pass is a gather too, not a scattered sum."""

    @staticmethod
    def forward(ctx: FunctionCtx, tokens: Tensor, fill: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        return tokens.index_select(0, fill)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad.index_select(0, slots), None, None


class _FromRows(torch.autograd.Function):
    """Undo `_ToRows`; padding gets the gradient zero."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, fill: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(fill, slots)
        return rows.index_select(0, slots)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        fill, slots = ctx.saved_tensors  # type: ignore[attr-defined]
        rows = grad.index_select(0, fill)
        if len(fill) > len(slots):
            padding = torch.ones(len(fill), dtype=torch.bool, device=fill.device)
            padding[slots] = False
            rows[padding] = 0
        return rows, None, None


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Samples of any lengths and segments, as `packing.pack` builds them.

    Tokens come in expert order: those of the understanding expert, then the latent tokens.
    """

    num_und: int
    """U."""
    rows: int
    """S."""
    length: int
    """L."""
    lens: tuple[int, ...]
    """Tokens of each row."""
    sequence_rows: Tensor
    """(T,) for each place in the sequence its token in expert order."""
    slots: Tensor
    """(T,) for each token its slot in the flattened S x L table."""
    fill: Tensor
    """(S * L,) for each slot its token; padding repeats token 0."""
    segment: Tensor
    """(S, L) number of the segment within the sample, -1 for padding."""
    mode: Tensor
    """(S, L) attention mode of the token's segment: 0 causal, 1 full, 2 noise."""
    split_lens: tuple[tuple[int, ...], ...]
    """Tokens of each segment of each row."""
    split_modes: tuple[tuple[str, ...], ...]
    """Their attention modes."""

    @classmethod
    def build(
        cls,
        order: Tensor,
        *,
        num_und: int,
        split_lens: Sequence[Sequence[int]],
        modes: Sequence[Sequence[str]],
    ) -> "PackedLayout":
        """Lay out tokens given in expert order by `order`, their places in the sequence."""
        lens = [sum(sample) for sample in split_lens]
        rows, length = len(lens), max(lens)
        segment = torch.full((rows, length), -1)
        mode = torch.zeros(rows, length, dtype=torch.long)
        for row, (sample, names) in enumerate(zip(split_lens, modes, strict=True)):
            start = 0
            for number, (count, name) in enumerate(zip(sample, names, strict=True)):
                segment[row, start : start + count] = number
                mode[row, start : start + count] = _CODES[name]
                start += count
        kept = (segment >= 0).flatten().nonzero().flatten()
        sequence_rows = torch.empty_like(order)
        sequence_rows[order] = torch.arange(len(order))
        fill = torch.zeros(rows * length, dtype=torch.long)
        fill[kept] = sequence_rows
        return cls(
            num_und=num_und,
            rows=rows,
            length=length,
            lens=tuple(lens),
            sequence_rows=sequence_rows,
            slots=kept[order],
            fill=fill,
            segment=segment,
            mode=mode,
            split_lens=tuple(map(tuple, split_lens)),
            split_modes=tuple(map(tuple, modes)),
        )

    def to(self, device: torch.device | str) -> "PackedLayout":
        """The same layout with its tensors on `device`."""
        return replace(
            self,
            sequence_rows=self.sequence_rows.to(device),
            slots=self.slots.to(device),
            fill=self.fill.to(device),
            segment=self.segment.to(device),
            mode=self.mode.to(device),
        )

    def to_rows(self, und_UC: Tensor, gen_GC: Tensor) -> Tensor:
        """Tokens of both experts -> padded rows (S, L, C)."""
        tokens_TC = torch.cat((und_UC, gen_GC)) if len(gen_GC) else und_UC
        rows: Tensor = _ToRows.apply(tokens_TC, self.fill, self.slots)  # type: ignore[no-untyped-call]
        return rows.view(self.rows, self.length, -1)

    def from_rows(self, rows_SLC: Tensor) -> tuple[Tensor, Tensor]:
        """Padded rows (S, L, C) -> tokens of both experts."""
        flat = rows_SLC.flatten(0, 1)
        tokens_TC: Tensor = _FromRows.apply(flat, self.fill, self.slots)  # type: ignore[no-untyped-call]
        return tokens_TC[: self.num_und], tokens_TC[self.num_und :]

    def in_sequence(self) -> "PackedLayout":
        """One row of all samples behind each other, without padding; its mask has no meaning."""
        total = len(self.sequence_rows)
        places = torch.empty_like(self.sequence_rows)
        places[self.sequence_rows] = torch.arange(total, device=places.device)
        return replace(
            self, rows=1, length=total, lens=(total,), slots=places, fill=self.sequence_rows
        )

    def spans(self, contexts: Sequence[int]) -> list[list[Span]]:
        """The segments of every sample, behind a context of so many tokens each."""
        found, start = [], 0
        for context, lens, modes in zip(contexts, self.split_lens, self.split_modes, strict=True):
            place, before, spans = context, [(0, context)] if context else [], []
            for length, mode in zip(lens, modes, strict=True):
                own = (place, place + length)
                touches = bool(before) and before[-1][1] == place
                keys = [*before[:-1], (before[-1][0], own[1])] if touches else [*before, own]
                spans.append(Span(start, start + length, tuple(keys), mode == "causal"))
                before = before if mode == "noise" else keys
                place, start = own[1], start + length
            found.append(spans)
        return found

    def skipped_pairs(self) -> int:
        """Pairs of tokens that a dense mask computes in vain, less what a call per span costs."""
        spans = [span for sample in self.spans([0] * len(self.split_lens)) for span in sample]
        needed = sum((s.end - s.start) * (b - a) for s in spans for a, b in s.keys)
        return self.rows * self.length**2 - needed - PAIRS_PER_CALL * len(spans)

    def valid(self) -> Tensor:
        """(S, L) bool: slots that hold a token."""
        return self.segment >= 0

    def mask(self) -> Tensor:
        """(S, 1, L, L) bool: which slot (third axis) may look at which (last axis).

        Padding looks at everything, so that no row of the softmax is empty; nothing looks at it.
        """
        same = self.segment[:, :, None] == self.segment[:, None, :]
        place = torch.arange(self.length, device=self.segment.device)
        earlier = place[:, None] >= place
        in_picture = same & (self.mode != _CODES["causal"])[:, None, :]
        visible = same | (self.mode != _CODES["noise"])[:, None, :]
        allowed = (earlier | in_picture) & visible & self.valid()[:, None, :]
        return (allowed | ~self.valid()[:, :, None]).unsqueeze(1)


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Rows of equal make-up: `und` tokens of the understanding expert, then `gen` latent tokens.

    Serves a denoising step (two markers and the latents) and text decoding (one token). Inside a
    picture the order of tokens does not matter: they share one position and see each other.
    """

    rows: int
    und: int
    gen: int

    @property
    def length(self) -> int:
        """Tokens of one row."""
        return self.und + self.gen

    def spans(self, contexts: Sequence[int]) -> list[list[Span]]:
        """One span a row: its tokens see each other and the context in front."""
        step = self.length
        return [
            [Span(row * step, (row + 1) * step, ((0, context + step),), causal=False)]
            for row, context in enumerate(contexts)
        ]

    def to_rows(self, und_UC: Tensor, gen_GC: Tensor) -> Tensor:
        """Tokens of both experts -> rows (S, L, C)."""
        und = und_UC.view(self.rows, self.und, -1)
        if self.gen == 0:
            return und
        return torch.cat((und, gen_GC.view(self.rows, self.gen, -1)), dim=1)

    def from_rows(self, rows_SLC: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (S, L, C), or (1, S * L, C), -> tokens of both experts."""
        rows_SLC = rows_SLC.view(self.rows, self.length, -1)
        und, gen = rows_SLC[:, : self.und], rows_SLC[:, self.und :]
        return und.flatten(0, 1), gen.flatten(0, 1)


Layout = PackedLayout | RowLayout
