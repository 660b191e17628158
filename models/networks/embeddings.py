"""Embeddings of the time and the label, and rotations of queries and keys by position."""

import math

import torch
from einops import repeat
from torch import Tensor, nn

from models.networks.conditioning import Conditioning, Signals
from models.variants import CONDITIONINGS


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Return sines and cosines of 1000·t at frequencies from 1 down to 1/10000: (N,) -> (N, width).

    1000·t has the range of DDPM's step counter. If width is odd, the last column is zero.
    """
    half = width // 2
    exponents = torch.arange(half, device=t.device, dtype=t.dtype) / max(half - 1, 1)
    angles = 1000 * t[:, None] * torch.exp(-math.log(10000) * exponents)  # (N, width // 2)
    return nn.functional.pad(torch.cat((angles.sin(), angles.cos()), dim=1), (0, width % 2))


class Condition(nn.Module):
    """Module that returns one vector (N, width) for all blocks, and the label's `Signals`.

    The vector depends on the time, and on the label if the conditioning returns a vector. conditioning: name of a
    module of `models.networks.conditioning`. shape: (C, H, W) of one encoded example.
    """

    def __init__(self, conditioning: str, classes: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.classes = classes
        self.time_in = nn.Linear(width, width)
        self.time_out = nn.Linear(width, width)
        self.label: Conditioning = CONDITIONINGS.find(conditioning)(classes, width, shape)

    def forward(self, t: Tensor, label: Tensor | None) -> tuple[Tensor, Signals]:
        """t: (N,) in [0, 1]; label: (N,) int64 in 0..classes, or None for the null label."""
        time = self.time_out(nn.functional.silu(self.time_in(sinusoids(t, self.time_in.in_features))))
        signals = self.label(t.new_full(t.shape, self.classes, dtype=torch.int64) if label is None else label)
        vector = time if signals.vector is None else time + signals.vector
        return nn.functional.silu(vector), signals


def axial_angles(rows: int, columns: int, head_width: int) -> Tensor:
    """Return the rotation angles of a grid's positions, row by row: (rows·columns, head_width // 2).

    Half of the angles are proportional to the row, half to the column. Frequencies fall from 1 towards 1/100 (RoPE,
    arXiv 2104.09864, eq. 14).
    """
    count = head_width // 4
    frequencies = 100.0 ** (-torch.arange(count) / count)
    by_row = repeat(torch.arange(rows)[:, None] * frequencies, "y f -> (y x) f", x=columns)
    by_column = repeat(torch.arange(columns)[:, None] * frequencies, "x f -> (y x) f", y=rows)
    return torch.cat((by_row, by_column), dim=-1)


def rotate(vectors: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate each pair (i, i + d/2) of the components of vectors (..., L, d); cosines and sines are (L, d/2).

    The dot product of two rotated vectors depends only on the difference of their positions.
    """
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
