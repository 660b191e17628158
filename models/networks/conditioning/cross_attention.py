"""The label as a sequence of tokens, which the network's attention layers read at every pixel or patch."""

from torch import Tensor, nn

from models.networks.conditioning import Conditioning, Signals


class CrossAttention(Conditioning):
    """Four learned tokens for each class and the null label.

    Attention to a single token would be a constant: softmax over one key is 1, and queries and keys would never learn.
    """

    tokens = 4

    def __init__(self, classes: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__(classes, width, shape)
        self.table = nn.Embedding(classes + 1, self.tokens * width)

    def forward(self, label: Tensor) -> Signals:
        """(N,) -> tokens (N, tokens, width)."""
        return Signals(tokens=self.table(label).unflatten(1, (self.tokens, -1)))
