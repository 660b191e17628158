"""Interface between the training loop and an objective: loss, evaluation and pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.model import DenoiserSpec, Model
from models.randomness import StepRandomness

EVALUATION_BATCH = 256


@dataclass
class KeptModels:
    """Cache of models of one specification, by network. Each is built once, so its CUDA graphs are recorded once."""

    spec: DenoiserSpec
    device: torch.device
    autocast: torch.dtype | None
    kept: dict[nn.Module, Model] = field(default_factory=dict)

    def __call__(self, network: nn.Module) -> Model:
        if network not in self.kept:
            self.kept[network] = self.spec.model(network, self.device, self.autocast)
        return self.kept[network]


class Losses(NamedTuple):
    """Losses of a batch. of_images: (N,), to be minimised. parts: (2, K), sum and count of each logged part."""

    of_images: Tensor
    parts: Tensor


class TestLoss(NamedTuple):
    """Result of an evaluation. test, train: mean loss over test images and over training images.

    parts: (K,), means over test images. note: text for the log line. figures: further measurements by name.
    """

    test: float
    train: float
    parts: list[float]
    note: str = ""
    figures: Mapping[str, float] | None = None


# Function of (prepared images, labels, plan on the device, randomness) that returns losses. It uses no Python number
# that changes between steps, and reads no value from the device, so that a CUDA graph can replay it.
LossOf = Callable[[Tensor, Tensor, Mapping[str, Tensor], StepRandomness], Losses]


class Objective(Protocol):
    """Training objective. parts, figures: names of the loss parts and of the measurements, logged in metrics.csv."""

    @property
    def parts(self) -> Sequence[str]: ...

    @property
    def figures(self) -> Sequence[str]:
        return ()

    @property
    def picture_format(self) -> str:
        """Format in which pictures are written in addition to PNG."""
        ...

    def plan(self, randomness: StepRandomness) -> dict[str, Tensor]:
        """Return the host's decisions for a part of a batch, as tensors on the CPU: times, weights, dropped labels."""
        ...

    def loss_of(self, network: nn.Module) -> LossOf:
        """Return the function that computes the losses of a network."""
        ...

    @property
    def version(self) -> int:
        """Version of the losses. A run of an older version discards its best test loss when it is resumed."""
        return 1

    def changes_since(self, version: int) -> list[str]:
        """Return a log line for each change in the definition of the losses since `version`."""
        return []

    def evaluate(self, network: nn.Module) -> TestLoss:
        """Measure the network on the same images, times and noise at every call."""
        ...

    def draw_progress(self, network: nn.Module, path: Path, title: str) -> None:
        """Write one sample sheet."""

    def draw_final(self, network: nn.Module, folder: Path, title: str, seconds: float) -> str:
        """Write the pictures of a finished run, which trained for `seconds`, to its folder.

        Returns a line for the log about pictures that are left out, empty if there are none.
        """
        ...


def rows_in_turn(labels: Tensor, count: int) -> Tensor:
    """Return up to `count` indices into labels (N,): the first image of each class, then the second of each, ..."""
    seen: dict[int, int] = {}
    turns = []
    for label in labels.tolist():
        turns.append((seen.get(label, 0), label))
        seen[label] = seen.get(label, 0) + 1
    return torch.tensor(sorted(range(len(turns)), key=turns.__getitem__)[:count], dtype=torch.long)


def rows_to_show(labels: Tensor, count: int) -> Tensor:
    """Return up to `count` indices into labels (N,): the classes in turn, or evenly spaced if there is one class."""
    if len(labels.unique()) > 1:
        return rows_in_turn(labels, count)
    return torch.linspace(0, len(labels) - 1, min(count, len(labels))).long()
