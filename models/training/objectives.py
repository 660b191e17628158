"""What the loop trains: a loss per image, its test on a frozen grid, and the pictures that show progress.

`training.py` knows only the methods of an objective. The denoising objective serves every network, schedule,
prediction and space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from models.randomness import StepRandomness

EVALUATION_BATCH = 256


class Losses(NamedTuple):
    """of_images: (N,), what is minimised. parts: (2, K), sums and counts of what is logged apart."""

    of_images: Tensor
    parts: Tensor


class TestLoss(NamedTuple):
    """Means over the frozen grid, on test images and, for the gap, on training images; and each part's on the test
    images. note: more that the log should say. figures: what else was measured, by name."""

    test: float
    train: float
    parts: list[float]
    note: str = ""
    figures: Mapping[str, float] | None = None


LossOf = Callable[[Tensor, Tensor, StepRandomness], Losses]


class Objective(Protocol):
    """What the loop asks of the thing it trains. parts: names of what is logged apart, a column each. figures: names of
    what else a test measures, a column each."""

    @property
    def parts(self) -> Sequence[str]: ...

    @property
    def figures(self) -> Sequence[str]: ...

    def loss_of(self, network: nn.Module) -> LossOf:
        """(images as the batches hold them, labels, randomness) -> losses."""
        ...

    @property
    def version(self) -> int:
        """Version of the losses: test losses of two versions are not compared."""
        ...

    def changes_since(self, version: int) -> list[str]:
        """Return a line for each change of meaning since a version of the losses."""
        ...

    def evaluate(self, network: nn.Module) -> TestLoss: ...

    def draw_progress(self, network: nn.Module, path: Path, title: str) -> None:
        """One sample sheet."""
        ...

    def draw_final(self, network: nn.Module, folder: Path, title: str) -> None:
        """The pictures of a finished run, in its folder."""
        ...
