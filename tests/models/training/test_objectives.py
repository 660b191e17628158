"""The evaluation of the denoising objective: its grid is frozen, and every time bin sees all kinds of images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.losses import DenoisingLoss
from models.diffusion.times import TimeDensity, bin_of
from models.generation import Sampling, labels_in_turn
from models.model import DenoiserSpec
from models.spaces.pixels import Pixels
from models.training.denoising_objective import DenoisingObjective


class Zero(nn.Module):
    """Network that always returns zero."""

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.zeros_like(noisy)


@pytest.fixture
def objective() -> DenoisingObjective:
    spec = DenoiserSpec("unet", {}, Pixels((1, 8, 8), 0.5), 0, (), "flow", 0, False, "flow", 0.0)
    images = torch.arange(200).view(200, 1, 1, 1).expand(200, 1, 8, 8).to(torch.uint8)  # sorted by brightness
    labels = torch.zeros(200, dtype=torch.int64)
    loss = DenoisingLoss("l2", "uniform", None, TimeDensity("uniform"), 0.0, 0)
    return DenoisingObjective(spec, loss, None, images, labels, images, labels, Sampling(), 4, 0)


def test_times_do_not_follow_the_order_of_the_images(objective: DenoisingObjective) -> None:
    _, t, _ = objective._losses(Zero(), objective.test_images, objective.test_labels)
    order = torch.arange(200).double()
    assert abs(torch.corrcoef(torch.stack([order, t]))[0, 1]) < 0.25
    assert torch.equal(torch.bincount(bin_of(t), minlength=10), torch.full((10,), 20))


def test_the_grid_is_frozen_and_its_loss_is_the_formula(objective: DenoisingObjective) -> None:
    """The loss of a network that returns zero is the mean square of noise - clean."""
    first, second = objective.evaluate(Zero()), objective.evaluate(Zero())
    assert first == second and first.test == first.train
    clean = objective.spec.space.encode(objective.test_images)
    assert first.test == pytest.approx(1 + clean.square().mean().item(), rel=0.05)
    assert len(first.parts) == 10


def test_labels_of_a_sheet_go_round() -> None:
    assert labels_in_turn(5, 3) == [0, 1, 2, 0, 1] and labels_in_turn(5, 0) is None
