"""Conditioning by embedding: the label as a vector. Its sum with the time's embedding modulates every block."""

from torch import Tensor, nn

from models.networks.conditioning import Conditioning, Signals


class Embedding(Conditioning):
    """Learned vector for each class and the null label."""

    def __init__(self, classes: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__(classes, width, shape)
        self.table = nn.Embedding(classes + 1, width)

    def forward(self, label: Tensor) -> Signals:
        """(N,) -> vector (N, width)."""
        return Signals(vector=self.table(label))
