"""Positions of OmniGen2's tokens on three axes, and the rotations that stand for them.

Caption token l lies at (l, l, l). A picture lies at (shift, row, column), where the shift is the
caption's length for the first one and grows by each picture's longer side (specification, 1.2).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_THETA = 10000.0


def caption_positions(length: int) -> Tensor:
    """(length, 3)."""
    return torch.arange(length)[:, None].expand(-1, 3)


def picture_positions(grid: tuple[int, int], shift: int) -> Tensor:
    """(rows * columns, 3)."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return torch.stack([torch.full_like(rows, shift), rows, columns], dim=-1).reshape(-1, 3)


def rotations(positions: Tensor, sizes: Sequence[int], limits: Sequence[int]) -> Tensor:
    """Unit complex numbers for interleaved pairs of a head's values.

    Args:
        positions: (S, L, 3) whole numbers.
        sizes: values of a head that each axis turns.
        limits: positions that each axis may have.

    Returns:
        (S, L, half of a head), complex64; angles are computed in fp64.

    Raises:
        ValueError: a position is past its limit.
    """
    highest = positions.amax(dim=(0, 1)).tolist()
    if any(value >= limit for value, limit in zip(highest, limits, strict=True)):
        raise ValueError(
            f"the sequence needs positions up to {highest}, but the model has {list(limits)}; "
            "use a shorter prompt, smaller pictures or fewer references"
        )
    angles = []
    for axis, size in enumerate(sizes):
        steps = torch.arange(0, size, 2, dtype=torch.float64, device=positions.device) / size
        angles.append(positions[..., axis, None].double() / _THETA**steps)
    turned = torch.cat(angles, dim=-1)
    return torch.polar(torch.ones_like(turned), turned).to(torch.complex64)
