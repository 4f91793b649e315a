"""Embeddings that are not learned tables of words: time, sin-cos positions, rotary angles."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TimeEmbedder(nn.Module):
    """Flow time t in [0, 1] -> hidden state, through a sinusoid and two linear layers."""

    frequencies = 256

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(self.frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, times: Tensor) -> Tensor:
        """(N,) -> (N, hidden_size)."""
        first = cast(nn.Linear, self.mlp[0])
        embedded: Tensor = self.mlp(time_sinusoid(times, self.frequencies).to(first.weight.dtype))
        return embedded


class PositionTable(nn.Module):
    """Fixed sin-cos rows of a square grid; stored in checkpoints, never trained."""

    pos_embed: Tensor

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side, self.width = side, width
        self.register_buffer("pos_embed", torch.empty(side * side, width))
        self.reset()

    def reset(self) -> None:
        """Write the computed table into the buffer."""
        if not self.pos_embed.is_meta:
            self.pos_embed.copy_(sin_cos_table(self.side, self.width))

    def forward(self, position_ids: Tensor) -> Tensor:
        """(N,) -> (N, width)."""
        return F.embedding(position_ids, self.pos_embed)


class Connector(nn.Module):
    """Vision features -> hidden states of the decoder."""

    def __init__(self, vision_size: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_size, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        """(N, vision_size) -> (N, hidden_size)."""
        projected: Tensor = self.fc2(F.gelu(self.fc1(features), approximate="tanh"))
        return projected


def time_sinusoid(times: Tensor, width: int) -> Tensor:
    """(N,) -> (N, width) in fp32: cosines, then sines, of frequency 10000^(-i / (width / 2))."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=times.device)
    angles = times.float()[:, None] * torch.exp(-math.log(10000.0) * steps / half)
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def sin_cos_table(side: int, width: int) -> Tensor:
    """(side * side, width) fp32: the first half encodes the column, the second half the row."""
    places = torch.arange(side, dtype=torch.float64)
    steps = torch.arange(width // 4, dtype=torch.float64)
    angles = places[:, None] * 10000.0 ** (-steps / (width // 4))
    half = torch.cat((angles.sin(), angles.cos()), dim=1)
    columns, rows = half.repeat(side, 1), half.repeat_interleave(side, dim=0)
    return torch.cat((columns, rows), dim=1).float()


def rotary_table(position_ids: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Tensor:
    """Positions (...) -> (2, ..., 1, head_dim): cosines and signed sines; angles in fp32.

    The sines of the first half are negative, so that `functional.rotate` negates nothing.
    """
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device)
    angles = position_ids.float()[..., None] * theta ** (-steps / head_dim)
    cos, sin = angles.cos(), angles.sin()
    table = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)))
    return table.unsqueeze(-2).to(dtype)
