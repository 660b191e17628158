"""The label as a vector: added to the time's, it scales and shifts every block of every network."""

from torch import Tensor, nn

from models.networks.conditioning import Conditioning, Signals


class Embedding(Conditioning):
    """A learned table with a row for each class and one for the null label."""

    def __init__(self, classes: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__(classes, width, shape)
        self.table = nn.Embedding(classes + 1, width)

    def forward(self, label: Tensor) -> Signals:
        """(N,) -> vector (N, width)."""
        return Signals(vector=self.table(label))
