"""How the label enters a network: every module here that exposes a class of its own name is one way, found by it.

A network reads the interface below and no names, so that each way is one file and goes with every network that can
read what it gives. Unlabelled data have no classes and the null label alone: whatever stands for it is then a constant
that the network learns.
"""

from typing import Annotated, NamedTuple

from torch import Tensor, nn

from models.variants import CONDITIONINGS


class Signals(NamedTuple):
    """What a label says, for N images, in the forms that a network may read; None where it says nothing that way."""

    vector: Tensor | None = None  # (N, width), added to the time's
    planes: Tensor | None = None  # (N, channels, H, W), joined to the image's channels
    tokens: Tensor | None = None  # (N, tokens, width), for attention


class Conditioning(nn.Module):
    """Built as `Class(classes, width, shape)`: width of vectors and tokens, shape (C, H, W) of one encoded example.

    channels and tokens count what the signals hold, and are known once it is built: 0 for None.
    """

    channels: int = 0
    tokens: int = 0

    def __init__(self, classes: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__()

    def forward(self, label: Tensor) -> Signals:
        """label: (N,) int64 in 0..classes, of which the last is the null label."""
        raise NotImplementedError


ConditioningName = Annotated[str, CONDITIONINGS.names]  # an option that names one; --help lists the names
