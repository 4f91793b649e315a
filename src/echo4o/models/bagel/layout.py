"""Layouts: how the tokens of both experts become one padded row per sample, and back.

Shape letters: U tokens of the understanding expert, G of the generation expert, T = U + G,
S samples (rows), L tokens of the longest row, C values per token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

_CODES = {"causal": 0, "full": 1, "noise": 2}


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
            num_und, rows, length, tuple(lens), sequence_rows, kept[order], fill, segment, mode
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

    @property
    def lens(self) -> tuple[int, ...]:
        """Tokens of each row."""
        return (self.length,) * self.rows

    def to_rows(self, und_UC: Tensor, gen_GC: Tensor) -> Tensor:
        """Tokens of both experts -> rows (S, L, C)."""
        und = und_UC.view(self.rows, self.und, -1)
        if self.gen == 0:
            return und
        return torch.cat((und, gen_GC.view(self.rows, self.gen, -1)), dim=1)

    def from_rows(self, rows_SLC: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (S, L, C) -> tokens of both experts."""
        und, gen = rows_SLC[:, : self.und], rows_SLC[:, self.und :]
        return und.flatten(0, 1), gen.flatten(0, 1)


Layout = PackedLayout | RowLayout
