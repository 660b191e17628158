"""The label as further channels of the input: planes of the image's size, which every network can read."""

import torch
from torch import Tensor, nn

from models.networks.conditioning import Conditioning, Signals


class Concatenation(Conditioning):
    """Learned planes for each class and the null label.

    Each begins flat, at a number of its own, so that the label can be told at every pixel before there is anything to
    say about the place.
    """

    channels = 4

    def __init__(self, classes: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__(classes, width, shape)
        self.size = shape[1:]
        numbers = torch.randn(classes + 1, self.channels, 1).expand(-1, -1, shape[1] * shape[2])
        self.table = nn.Embedding.from_pretrained(numbers.flatten(1).contiguous(), freeze=False)

    def forward(self, label: Tensor) -> Signals:
        """(N,) -> planes (N, channels, H, W)."""
        return Signals(planes=self.table(label).unflatten(1, (self.channels, *self.size)))
