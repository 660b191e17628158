"""The noise-prediction loss of an exact denoiser against the variance that the noise has, given the noisy image."""

from __future__ import annotations

import math

import pytest
import torch

from models.diffusion.noise_schedules import NoiseSchedule, build_noise_schedule
from models.diffusion.predictions import PREDICTIONS, build_prediction
from models.diffusion.times import bin_of
from models.evaluation.images import Images
from models.evaluation.noise_loss import by_bin, noise_losses
from models.evaluation.statistics import mean_interval
from tests.exact import ExactGaussian, correlated_gaussian, through_network
from tests.models.evaluation.densities import Classes

SHAPE = (1, 2, 3)
SCHEDULES = {
    "flow": build_noise_schedule("flow"),
    "cosine": build_noise_schedule("cosine"),
    "chain": build_noise_schedule("linear", 1000),
}


def images_of(exact: ExactGaussian, count: int, seed: int = 0) -> Images:
    clean = exact.draw_noisy(exact.noise_schedule.level(torch.zeros(())), count, torch.Generator().manual_seed(seed))
    return Images(clean, range(count), seed)


def true_losses(exact: ExactGaussian, t: torch.Tensor) -> torch.Tensor:
    """(N,) expected losses at the times (N,): the mean of alpha^2 v / (alpha^2 v + sigma^2) over the variances v."""
    level = exact.noise_schedule.level(t)
    alpha, sigma = (values[:, None] ** 2 for values in (level.alpha, level.sigma))
    return (alpha * exact.variances / (alpha * exact.variances + sigma)).mean(1)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_loss_of_an_exact_denoiser_by_t(schedule: NoiseSchedule) -> None:
    exact = correlated_gaussian(schedule, SHAPE)
    t, losses = noise_losses(exact, exact.noise_schedule, images_of(exact, 4000), None)
    assert torch.equal(bin_of(t), torch.arange(10).expand(4000, 10).sort(descending=schedule.steps is None).values)
    excess = by_bin(t, losses) - by_bin(t, true_losses(exact, t.flatten()).view_as(t))
    assert all(low - 0.003 < 0 < high + 0.003 for low, high in map(mean_interval, excess.T))
    times = (torch.arange(10000).double() + 0.5) / 10000
    assert losses.mean().item() == pytest.approx(true_losses(exact, times).mean().item(), rel=0.01)


def test_it_is_the_noise_whatever_the_prediction() -> None:
    exact = correlated_gaussian(build_noise_schedule("cosine", 1000), SHAPE)
    images = images_of(exact, 50)
    _, true = noise_losses(exact, exact.noise_schedule, images, None)
    for name in PREDICTIONS:
        _, found = noise_losses(through_network(exact, build_prediction(name, 0.7)), exact.noise_schedule, images, None)
        assert torch.allclose(found, true, rtol=1e-5), name


def test_times_noise_and_labels_belong_to_the_image() -> None:
    classes = Classes(SCHEDULES["flow"], SHAPE, 3)
    clean, labels = classes.draw(12)
    images = Images(clean, range(40, 52), seed=3)
    t, losses = noise_losses(classes, classes.schedule, images, labels)
    rows = torch.tensor([7, 2])
    again_t, again = noise_losses(classes, classes.schedule, images[rows], labels[rows])
    assert torch.equal(again_t, t[rows]) and torch.allclose(again, losses[rows], rtol=1e-9)
    other_t, _ = noise_losses(classes, classes.schedule, Images(clean, range(40, 52), seed=4), labels)
    assert not torch.equal(other_t, t)
    _, mistaken = noise_losses(classes, classes.schedule, images, (labels + 1) % 3)
    assert mistaken.mean() > 1.5 * losses.mean()


def test_the_times_of_a_short_chain_are_its_own() -> None:
    exact = correlated_gaussian(build_noise_schedule("linear", 3), SHAPE)
    t, losses = noise_losses(exact, exact.noise_schedule, images_of(exact, 20), None)
    assert set(t.unique().tolist()) == {1 / 3, 2 / 3, 1.0}
    bins = by_bin(t, losses)
    assert bins.isnan().all(0).tolist() == [k not in (3, 6, 9) for k in range(10)]
    last = torch.where(t == 1, losses, math.nan).nanmean(1)
    assert torch.allclose(bins[:, 9], last)
