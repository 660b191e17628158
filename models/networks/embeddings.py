"""What the networks know beside the pixels: the time, the label and, for tokens, the position.

Positions enter by rotation of queries and keys; learned position tables are a plain parameter of the network.
"""

import math

import torch
from torch import Tensor, nn

from models.networks.conditioning import Signals
from models.variants import CONDITIONINGS


def sinusoids(t: Tensor, width: int) -> Tensor:
    """(N,) -> (N, width): sines and cosines of 1000·t at frequencies from 1 down to 1/10000.

    1000·t puts t in [0, 1] on the scale of "Attention is all you need" (section 3.5) and of DDPM's step counter.
    An odd width ends in a zero.
    """
    half = width // 2
    exponents = torch.arange(half, device=t.device, dtype=t.dtype) / max(half - 1, 1)
    angles = 1000 * t[:, None] * torch.exp(-math.log(10000) * exponents)  # (N, width // 2)
    return nn.functional.pad(torch.cat((angles.sin(), angles.cos()), dim=1), (0, width % 2))


class Condition(nn.Module):
    """Time and label as one vector (N, width) that every block reads, and what else the label says.

    conditioning: a name of `models.conditioning`; shape: (C, H, W) of one encoded example.
    """

    def __init__(self, conditioning: str, classes: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.classes = classes
        self.time_in = nn.Linear(width, width)
        self.time_out = nn.Linear(width, width)
        self.label = CONDITIONINGS.find(conditioning)(classes, width, shape)

    def forward(self, t: Tensor, label: Tensor | None) -> tuple[Tensor, Signals]:
        """t: (N,) in [0, 1]; label: (N,) int64 in 0..classes, or None: the null label for all."""
        time = self.time_out(nn.functional.silu(self.time_in(sinusoids(t, self.time_in.in_features))))
        signals = self.label(t.new_full(t.shape, self.classes, dtype=torch.int64) if label is None else label)
        vector = time if signals.vector is None else time + signals.vector
        return nn.functional.silu(vector), signals


def axial_angles(rows: int, columns: int, head_width: int) -> Tensor:
    """Rotation angles of a grid's positions, row by row: (rows·columns, head_width // 2).

    The first half of the angles goes with the row, the second with the column, each at frequencies from 1 down to
    1/100 per step (RoPE, arXiv 2104.09864, eq. 14, on both axes). head_width is a multiple of 4.
    """
    count = head_width // 4
    frequencies = 100.0 ** (-torch.arange(count) / count)
    row = torch.arange(rows)[:, None, None] * frequencies  # (rows, 1, count)
    column = torch.arange(columns)[:, None] * frequencies  # (columns, count)
    shape = (rows, columns, count)
    return torch.cat((row.expand(shape), column.expand(shape)), dim=-1).flatten(0, 1)


def rotate(vectors: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turns the pair (i, i + d/2) of vectors (..., L, d) by its angle; cosines and sines are (L, d/2).

    The dot product of two rotated vectors then depends on the difference of their positions only.
    """
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
