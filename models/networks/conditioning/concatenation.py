"""Conditioning by concatenation: the label as additional input channels, which every network can read."""

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from models.networks.conditioning import Conditioning, Signals


class Concatenation(Conditioning):
    """Learned planes for each class and the null label.

    Each plane begins as a random constant, so that every pixel can tell the classes apart from the start.
    """

    channels = 4

    def __init__(self, classes: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__(classes, width, shape)
        self.height = shape[1]
        constants = torch.randn(classes + 1, self.channels)
        self.table = nn.Embedding.from_pretrained(
            repeat(constants, "k c -> k (c pixels)", pixels=shape[1] * shape[2]), freeze=False
        )

    def forward(self, label: Tensor) -> Signals:
        """(N,) -> planes (N, channels, H, W)."""
        rows = self.table(label)
        return Signals(planes=rearrange(rows, "b (c y x) -> b c y x", c=self.channels, y=self.height))
