"""Conditioning by cross-attention: the label as a sequence of tokens, to which every pixel or patch attends."""

from einops import rearrange
from torch import Tensor, nn

from models.networks.conditioning import Conditioning, Signals


class CrossAttention(Conditioning):
    """Four learned tokens for each class and the null label.

    One token is not enough: softmax over one key is 1, so queries and keys would get no gradient.
    """

    tokens = 4

    def __init__(self, classes: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__(classes, width, shape)
        self.table = nn.Embedding(classes + 1, self.tokens * width)

    def forward(self, label: Tensor) -> Signals:
        """(N,) -> tokens (N, tokens, width)."""
        return Signals(tokens=rearrange(self.table(label), "b (l d) -> b l d", l=self.tokens))
