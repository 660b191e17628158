"""Conditioning by concatenation: the label as additional input channels, which every network can read."""

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from models.networks.conditioning import Conditioning, Signals


class Concatenation(Conditioning):
    """Learned planes for each class and the null label. Each plane starts as a random constant."""

    channels = 4

    def __init__(self, classes: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__(classes, width, shape)
        self.height = shape[1]
        planes = repeat(torch.randn(classes + 1, self.channels), "k c -> k (c yx)", yx=shape[1] * shape[2])
        self.table = nn.Embedding.from_pretrained(planes, freeze=False)

    def forward(self, label: Tensor) -> Signals:
        """(N,) -> planes (N, channels, H, W)."""
        rows = self.table(label)
        return Signals(planes=rearrange(rows, "b (c y x) -> b c y x", c=self.channels, y=self.height))
