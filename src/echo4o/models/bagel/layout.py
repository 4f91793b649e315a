"""Layouts: how tokens in expert order become one padded row per sample for attention, and back.

Shape letters: T tokens, U of them for the understanding expert, G for the generation expert,
S samples (rows), L tokens of the longest row, C values per token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

_CAUSAL, _FULL, _NOISE = 0, 1, 2
_MODES = {"causal": _CAUSAL, "full": _FULL, "noise": _NOISE}


class _Gather(torch.autograd.Function):
    """Rows of a matrix by index, with a gather instead of a scattered sum in the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (inverse,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad.index_select(0, inverse), None, None


class _Ungather(torch.autograd.Function):
    """Undo `_Gather`; padding rows get the gradient zero."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = len(x)  # type: ignore[attr-defined]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (index,) = ctx.saved_tensors  # type: ignore[attr-defined]
        padded = grad.new_zeros(ctx.rows, *grad.shape[1:])  # type: ignore[attr-defined]
        return padded.index_copy_(0, index, grad), None


@dataclass(slots=True)
class PackedLayout:
    """Samples of any lengths and segments, as `packing.pack` builds them."""

    num_und: int
    """U: tokens of the understanding expert come first."""
    rows: int
    """S."""
    length: int
    """L."""
    sequence_rows: Tensor
    """(T,) for each place in the sequence its row in expert order."""
    slots: Tensor
    """(T,) for each token in expert order its slot in the flattened S x L table."""
    fill: Tensor
    """(S * L,) for each slot a token in expert order; padding repeats token 0."""
    segment: Tensor
    """(S, L) number of the segment within the sample, -1 for padding."""
    mode: Tensor
    """(S, L) attention mode of the token's segment."""

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
            counts = torch.tensor(sample)
            segment[row, : lens[row]] = torch.arange(len(sample)).repeat_interleave(counts)
            codes = torch.tensor([_MODES[name] for name in names])
            mode[row, : lens[row]] = codes.repeat_interleave(counts)
        kept = (segment >= 0).flatten().nonzero().flatten()
        sequence_rows = torch.empty_like(order)
        sequence_rows[order] = torch.arange(len(order))
        fill = torch.zeros(rows * length, dtype=torch.long)
        fill[kept] = sequence_rows
        return cls(num_und, rows, length, sequence_rows, kept[order], fill, segment, mode)

    def to(self, device: torch.device | str) -> "PackedLayout":
        """The same layout with its tensors on `device`."""
        values = [getattr(self, f.name) for f in fields(self)]
        return PackedLayout(*(v.to(device) if isinstance(v, Tensor) else v for v in values))

    def to_rows(self, tokens_TC: Tensor) -> Tensor:
        """Expert order (T, C) -> padded rows (S, L, C)."""
        rows = _Gather.apply(tokens_TC, self.fill, self.slots)
        return rows.view(self.rows, self.length, -1)

    def from_rows(self, rows_SLC: Tensor) -> Tensor:
        """Padded rows (S, L, C) -> expert order (T, C)."""
        return _Ungather.apply(rows_SLC.flatten(0, 1), self.slots)

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
        in_picture = same & (self.mode != _CAUSAL)[:, None, :]
        visible = same | (self.mode != _NOISE)[:, None, :]
        allowed = (earlier | in_picture) & visible & self.valid()[:, None, :]
        return (allowed | ~self.valid()[:, :, None]).unsqueeze(1)


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Rows of equal make-up: `und` tokens of the understanding expert, then `gen` latent tokens.

    Serves a denoising step (two markers and the latents) and text decoding (one token); inside a
    picture the order of tokens does not matter, because all share one position and see each other.
    """

    rows: int
    und: int
    gen: int

    @property
    def num_und(self) -> int:
        """Tokens of the understanding expert in all rows."""
        return self.rows * self.und

    @property
    def length(self) -> int:
        """Tokens of one row."""
        return self.und + self.gen

    def to_rows(self, tokens_TC: Tensor) -> Tensor:
        """Expert order (T, C) -> rows (S, L, C)."""
        if self.gen == 0:
            return tokens_TC.view(self.rows, self.und, -1)
        und, gen = tokens_TC.split((self.num_und, self.rows * self.gen))
        parts = (und.view(self.rows, self.und, -1), gen.view(self.rows, self.gen, -1))
        return torch.cat(parts, dim=1)

    def from_rows(self, rows_SLC: Tensor) -> Tensor:
        """Rows (S, L, C) -> expert order (T, C)."""
        if self.gen == 0:
            return rows_SLC.flatten(0, 1)
        und, gen = rows_SLC.split((self.und, self.gen), dim=1)
        return torch.cat((und.flatten(0, 1), gen.flatten(0, 1)))


Layout = PackedLayout | RowLayout
