"""Losses per image: distances, labels and times, each option against its effect."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.denoiser import NetworkDenoiser, add_noise
from models.diffusion.losses import DISTANCES, WEIGHTINGS, DenoisingLoss
from models.diffusion.noise_schedules import NoiseSchedule
from models.diffusion.predictions import build_prediction
from models.diffusion.times import BINS, bin_of
from models.errors import UserError
from models.randomness import StepRandomness
from tests.exact import levels
from tests.models.diffusion.loss_cases import FLOW, LINEAR, NULL, loss_of


class Constant(nn.Module):
    """Answers with a number, and keeps the labels it was shown."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        self.label = label
        return torch.full_like(noisy, self.value)


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    clean, noise = torch.randn(2, count, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    return clean, noise


def losses_and_times(
    loss: DenoisingLoss,
    denoiser: NetworkDenoiser,
    schedule: NoiseSchedule,
    clean: Tensor,
    label: Tensor | None,
    random: StepRandomness,
) -> tuple[Tensor, Tensor]:
    """Make the plan of a batch, and compute its losses."""
    plan = loss.plan(schedule, denoiser.prediction, random)
    return loss(denoiser, clean, label, plan, random), plan["t"]


def randomness(count: int, seed: int = 0, start: int = 0, stop: int | None = None) -> StepRandomness:
    return StepRandomness(seed, 0, count, start, count if stop is None else stop, torch.device("cpu"))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_one_number_per_image(distance: str, weighting: str) -> None:
    clean, noise = batch()
    denoiser = NetworkDenoiser(Constant(0.3), build_prediction("eps", 1.0))
    t = torch.linspace(0.1, 1, 6, dtype=torch.float64)
    loss = loss_of(weighting, distance=distance)
    level = LINEAR.level(t)
    weights = loss.weights(level, LINEAR, denoiser.prediction)
    together = loss.at(denoiser, clean, None, level, weights, noise)
    assert together.shape == (6,)
    assert together.dtype == torch.float32
    for index in range(6):
        one = slice(index, index + 1)
        alone = loss.at(denoiser, clean[one], None, level[one], weights[one], noise[one])
        torch.testing.assert_close(alone, together[one])


def test_distances_by_hand() -> None:
    clean = torch.zeros(3, 1, 1, 2)
    noise = torch.tensor([0.0, 0.5, 3.0]).reshape(3, 1, 1, 1).expand(3, 1, 1, 2)
    denoiser = NetworkDenoiser(Constant(0.0), build_prediction("eps", 1.0))
    level = LINEAR.level(torch.full((3,), 0.5))
    for distance, expected in (("l1", [0, 0.5, 3]), ("l2", [0, 0.25, 9]), ("huber", [0, 0.125, 2.5])):
        loss = loss_of(distance=distance)
        found = loss.at(denoiser, clean, None, level, loss.weights(level, LINEAR, denoiser.prediction), noise)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("name", ["x0", "v", "flow", "edm"])
def test_the_right_answer_costs_nothing(name: str) -> None:
    clean, noise = batch()
    prediction = build_prediction(name, 0.5)

    class Oracle(nn.Module):
        def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            return prediction.target(clean, noise, *levels(FLOW, t.double(), clean))

    level, loss = FLOW.level(torch.full((6,), 0.5)), loss_of()
    weights = loss.weights(level, FLOW, prediction)
    losses = loss.at(NetworkDenoiser(Oracle(), prediction), clean, None, level, weights, noise)
    assert losses.max() < 1e-10


def test_the_network_sees_the_noised_image() -> None:
    clean, noise = batch()
    t = torch.linspace(0.1, 1, 6, dtype=torch.float64)

    class Looking(nn.Module):
        def forward(self, noisy: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
            torch.testing.assert_close(noisy, add_noise(clean, noise, LINEAR.level(t)))
            torch.testing.assert_close(time, t.float())
            return noisy

    denoiser, level = NetworkDenoiser(Looking(), build_prediction("v", 1.0)), LINEAR.level(t)
    weights = loss_of().weights(level, LINEAR, denoiser.prediction)
    loss_of().at(denoiser, clean, None, level, weights, noise)


def test_gradients_reach_the_network() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            return self.scale * noisy

    network = Scale()
    clean, _ = batch()
    losses, _ = losses_and_times(
        loss_of(), NetworkDenoiser(network, build_prediction("v", 1.0)), FLOW, clean, None, randomness(6)
    )
    losses.mean().backward()
    assert network.scale.grad is not None
    assert network.scale.grad.abs() > 0


def test_the_step_decides_everything_and_parts_add_up() -> None:
    clean, _ = batch()
    label = torch.arange(6)
    denoiser = NetworkDenoiser(Constant(0.1), build_prediction("flow", 1.0))
    loss = loss_of(label_drop=0.5)
    whole, times = losses_and_times(loss, denoiser, FLOW, clean, label, randomness(6))
    again, _ = losses_and_times(loss, denoiser, FLOW, clean, label, randomness(6))
    other, _ = losses_and_times(loss, denoiser, FLOW, clean, label, randomness(6, seed=1))
    assert whole.equal(again)
    assert not whole.equal(other)
    assert times.shape == (6,)
    parts = [
        losses_and_times(loss, denoiser, FLOW, clean[a:b], label[a:b], randomness(6, start=a, stop=b))
        for a, b in ((0, 2), (2, 6))
    ]
    torch.testing.assert_close(torch.cat([losses for losses, _ in parts]), whole)
    assert torch.cat([t for _, t in parts]).equal(times)


def test_labels_are_dropped_image_by_image() -> None:
    """Each with its own coin: of 2,000 images about a fifth, and hardly ever all or none of a batch of eight."""
    clean = torch.zeros(2000, 1, 1, 1)
    label = torch.arange(2000) % NULL
    network = Constant(0.0)
    denoiser = NetworkDenoiser(network, build_prediction("flow", 1.0))
    losses_and_times(loss_of(label_drop=0.2), denoiser, FLOW, clean, label, randomness(2000))
    assert network.label is not None
    dropped = network.label == NULL
    assert network.label[~dropped].equal(label[~dropped])
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.03)
    share = dropped.reshape(-1, 8).float().mean(1)
    assert (share == 1).sum() == 0
    assert ((share > 0) & (share < 1)).float().mean().item() == pytest.approx(1 - 0.8**8, abs=0.07)
    assert label.max() < NULL


def test_labels_are_dropped_at_all_times_alike() -> None:
    """With stratified times, one stream for both would drop the labels of the same part of time in every batch."""
    clean, label = torch.zeros(4000, 1, 1, 1), torch.zeros(4000, dtype=torch.long)
    network = Constant(0.0)
    denoiser = NetworkDenoiser(network, build_prediction("flow", 1.0))
    _, t = losses_and_times(loss_of(label_drop=0.5), denoiser, FLOW, clean, label, randomness(4000))
    assert network.label is not None
    dropped = (network.label == NULL).double()
    within = (t * 4000).frac()
    for times in (t, within):
        assert torch.corrcoef(torch.stack([dropped, times]))[0, 1].abs() < 0.05


@pytest.mark.parametrize(("drop", "kept"), [(0.0, True), (1.0, False)])
def test_no_label_or_every_label_dropped(drop: float, kept: bool) -> None:
    clean, _ = batch()
    network = Constant(0.0)
    denoiser = NetworkDenoiser(network, build_prediction("flow", 1.0))
    losses_and_times(loss_of(label_drop=drop), denoiser, FLOW, clean, torch.zeros(6, dtype=torch.long), randomness(6))
    assert network.label is not None
    assert network.label.tolist() == [0 if kept else NULL] * 6
    losses_and_times(loss_of(label_drop=drop), denoiser, FLOW, clean, None, randomness(6))
    assert network.label is None


def test_dropping_labels_does_not_touch_times_or_noise() -> None:
    clean, _ = batch()
    denoiser = NetworkDenoiser(Constant(0.2), build_prediction("flow", 1.0))
    label = torch.zeros(6, dtype=torch.long)
    with_drop, t = losses_and_times(loss_of(label_drop=0.5), denoiser, FLOW, clean, label, randomness(6))
    without, same_t = losses_and_times(loss_of(), denoiser, FLOW, clean, label, randomness(6))
    assert with_drop.equal(without)
    assert t.equal(same_t)


def test_bins_of_time() -> None:
    """Bin k holds (k/10, (k+1)/10], so that a chain of ten has one step in each."""
    assert bin_of(torch.arange(1, 11, dtype=torch.float64) / 10).tolist() == list(range(BINS))
    assert bin_of(torch.tensor([1e-5, 0.05, 0.1 + 1e-6, 0.999])).tolist() == [0, 0, 1, 9]


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"loss 'l3': choose from l2, l1, huber"):
        loss_of(distance="l3")
    with pytest.raises(UserError, match=r"weighting 'snr': choose from .*min_snr"):
        loss_of("snr")
    with pytest.raises(UserError, match=r"weight_limit -1\.0: must be more than 0"):
        loss_of("min_snr", -1.0)
    with pytest.raises(UserError, match=r"label_drop 1\.5: must be"):
        loss_of(label_drop=1.5)
    assert math.isclose(WEIGHTINGS["min_snr"][1], 5.0)
