"""Conditionings: how a network receives the label. Each is a module with a subclass of Conditioning, found by name.

A conditioning works with every network that reads its signals. Unlabelled data have only the null label, whose signals
are constants that the network learns.
"""

from typing import Annotated, NamedTuple

from torch import Tensor, nn

from models.variants import CONDITIONINGS


class Signals(NamedTuple):
    """Signals of a label for N images, in up to three forms. None: the conditioning does not use this form."""

    vector: Tensor | None = None  # (N, width), added to the time's embedding
    planes: Tensor | None = None  # (N, channels, H, W), concatenated with the image's channels
    tokens: Tensor | None = None  # (N, tokens, width), for cross-attention


class Conditioning(nn.Module):
    """Base class of the conditionings: built as `Class(classes, width, shape)`.

    width: size of the vector and of each token. shape: (C, H, W) of one encoded example. channels, tokens: numbers of
    planes and tokens, 0 for none.
    """

    channels: int = 0
    tokens: int = 0

    def __init__(self, classes: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__()

    def forward(self, label: Tensor) -> Signals:
        """label: (N,) int64 in 0..classes. The label `classes` is the null label."""
        raise NotImplementedError


ConditioningName = Annotated[str, CONDITIONINGS.names]  # Type of a `conditioning` option, whose help lists the names.
