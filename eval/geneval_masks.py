"""Masks of GenEval's detector, brought from the model's cells to the picture's pixels.

The benchmark's detector resizes a mask twice (cells -> padded input -> picture) and keeps what is
above zero. Both steps are linear, so they are one product of narrow-band matrices here, only as
large as the mask. Rounding differs in the last digits: the few pixels that are so near to zero that
this could matter are made anew, step by step as torch does it, so masks are equal to the pixel.

Shape letters: H and W pixels of the picture, R and C rows and columns of the mask.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, threshold

_SHORTEST, _LONGEST, _STRIDE = 800, 1333, 32
_BLOCK = 64
"""Lines that are made at a time: few cells matter to them."""
_DOUBTFUL = 1e-6
"""Share of a mask's largest value: what is nearer to zero may be rounded to the other side. Each
way takes some twelve roundings of at most 6e-8 of it."""
_EPSILON = 1e-6


class Geometry(NamedTuple):
    """Heights and widths of a picture on its way into the model."""

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def of(cls, width: int, height: int) -> "Geometry":
        """Shortest side 800 unless the longest would pass 1,333; padded to multiples of 32."""
        scale = min(_SHORTEST / min(width, height), _LONGEST / max(width, height))
        resized = (int(height * scale + 0.5), int(width * scale + 0.5))
        padded = (-(-resized[0] // _STRIDE) * _STRIDE, -(-resized[1] // _STRIDE) * _STRIDE)
        return cls((height, width), resized, padded)


class Found(NamedTuple):
    """A mask in the picture."""

    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 with exclusive ends; the mask lies inside."""
    mask: NDArray[np.bool_]
    """(y1 - y0, x1 - x0)."""
    certainty: float
    """Mean probability of its pixels."""


def in_picture(logits: Tensor, geometry: Geometry) -> Found | None:
    """Bring one mask to the picture; None when no pixel of it is above zero.

    Args:
        logits: (R, C) over the padded picture.
        geometry: The picture's sizes.
    """
    part = _part(logits, geometry)
    if part is None:
        return None
    top, left, values = part
    mask = _above_zero(logits, geometry, part)
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    y0, y1 = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[y0:y1].any(axis=0))
    x0, x1 = int(columns[0]), int(columns[-1]) + 1
    mask = mask[y0:y1, x0:x1]
    # What is not of the mask has a probability of at most a half, and becomes 0.
    chances = threshold(values[y0:y1, x0:x1].sigmoid_(), 0.5, 0.0, inplace=True)
    sure = float(chances.sum())
    box = (left + x0, top + y0, left + x1, top + y1)
    return Found(box, mask, sure / (np.count_nonzero(mask) + _EPSILON))


class _Part(NamedTuple):
    """Values of a mask in a part of the picture; elsewhere none is above zero."""

    top: int
    left: int
    values: Tensor


def _above_zero(logits: Tensor, geometry: Geometry, part: _Part) -> NDArray[np.bool_]:
    values = part.values.numpy()
    doubt = _DOUBTFUL * float(logits.abs().max())
    mask: NDArray[np.bool_] = values > doubt
    maybe = values > -doubt
    if np.count_nonzero(maybe) != np.count_nonzero(mask):
        rows, columns = divmod(np.flatnonzero(maybe ^ mask), mask.shape[1])
        mask[rows, columns] = (
            _step_by_step(logits, geometry, rows + part.top, columns + part.left) > 0
        )
    return mask


def _step_by_step(
    logits: Tensor, geometry: Geometry, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return single pixels with the roundings of two resizes by torch."""
    (y_up, x_up), (y_down, x_down) = (
        [_Taps.of(*sizes) for sizes in zip(starts, ends, strict=True)]
        for starts, ends in (
            (tuple(logits.shape), geometry.padded),
            (geometry.resized, geometry.original),
        )
    )
    cells = logits.numpy()

    def padded(y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.float32]:
        return _mixed(y_up, x_up, y, x, lambda rows, columns: cells[rows, columns])

    return _mixed(y_down, x_down, rows, columns, padded)


def _mixed(
    vertical: "_Taps",
    horizontal: "_Taps",
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    value: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    def line(y: NDArray[np.int64]) -> NDArray[np.float32]:
        first, second = (value(y, one[columns]) for one in horizontal.cells)
        return _sum(first, horizontal.weights[0][columns], second, horizontal.weights[1][columns])

    upper, lower = (line(one[rows]) for one in vertical.cells)
    return _sum(upper, vertical.weights[0][rows], lower, vertical.weights[1][rows])


def _sum(
    a: NDArray[np.float32],
    weight_a: NDArray[np.float32],
    b: NDArray[np.float32],
    weight_b: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return a * weight_a + b * weight_b, the first product not rounded, as the processor does."""
    exact = a.astype(np.float64) * weight_a.astype(np.float64)
    return (exact + (b * weight_b).astype(np.float64)).astype(np.float32)


class _Taps(NamedTuple):
    """The two lines that each line of one resize is mixed of."""

    cells: tuple[NDArray[np.int64], NDArray[np.int64]]
    weights: tuple[NDArray[np.float32], NDArray[np.float32]]

    @classmethod
    @lru_cache(maxsize=16)
    def of(cls, size: int, wanted: int) -> "_Taps":
        """Return those of a resize along one axis."""
        matrix = _resize_matrix(size, wanted).float().numpy()
        first = (matrix != 0).argmax(axis=1)
        second = np.minimum(first + 1, size - 1)
        lines = np.arange(wanted)
        rest = np.where(second > first, matrix[lines, second], np.float32(0))
        return cls((first, second), (matrix[lines, first], rest))


def _part(logits: Tensor, geometry: Geometry) -> _Part | None:
    """Return the part in which a pixel can be above zero."""
    above = (logits > 0).numpy()
    vertical, horizontal = (
        _Steps.of(logits.shape[axis], *(sizes[axis] for sizes in geometry)) for axis in (0, 1)
    )
    rows = vertical.touched(np.flatnonzero(above.any(axis=1)))
    columns = horizontal.touched(np.flatnonzero(above.any(axis=0)))
    if rows is None or columns is None:
        return None
    wide = horizontal.apply(logits.T, columns).T
    return _Part(rows[0], columns[0], vertical.apply(wide, rows))


class _Steps(NamedTuple):
    """Both resizes along one axis."""

    weights: Tensor
    """(pixels, cells): few of a line are not 0."""
    first: NDArray[np.int64]
    """The first cell of each pixel, in ascending order."""
    last: NDArray[np.int64]

    @classmethod
    @lru_cache(maxsize=16)
    def of(cls, cells: int, original: int, resized: int, padded: int) -> "_Steps":
        """Return those from cells to the pixels of a picture."""
        up = _resize_matrix(cells, padded)[:resized]
        weights = (_resize_matrix(resized, original) @ up).float()
        used = weights.numpy() != 0
        first = used.argmax(axis=1)
        last = cells - 1 - used[:, ::-1].argmax(axis=1)
        return cls(weights, first, last)

    def touched(self, cells: NDArray[np.int64]) -> tuple[int, int] | None:
        """Return the range of pixels that have a part in any of these cells, which ascend."""
        if not len(cells):
            return None
        start = int(np.searchsorted(self.last, cells[0]))
        stop = int(np.searchsorted(self.first, cells[-1], side="right"))
        return start, stop

    def apply(self, values: Tensor, pixels: tuple[int, int]) -> Tensor:
        """Make a range of lines of (cells, any) values."""
        start, stop = pixels
        made = values.new_empty(stop - start, values.shape[1])
        for begin in range(start, stop, _BLOCK):
            end = min(begin + _BLOCK, stop)
            cells = slice(int(self.first[begin]), int(self.last[end - 1]) + 1)
            torch.mm(
                self.weights[begin:end, cells],
                values[cells],
                out=made[begin - start : end - start],
            )
        return made


def _resize_matrix(size: int, wanted: int) -> Tensor:
    """Return (wanted, size) in double precision, with torch's own weights of a resize."""
    lines = torch.eye(size)[None]
    return interpolate(lines, size=wanted, mode="linear", align_corners=False)[0].T.double()
