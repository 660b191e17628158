"""Inpainting: what is known stays, what is not is drawn from the conditional distribution of Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch

from models.diffusion.editing import add_noise_from, inpaint, known_in_space, with_known
from models.diffusion.noise_schedules import build_noise_schedule
from models.diffusion.samplers import SAMPLERS
from models.diffusion.times import build_grid
from tests.exact import ExactGaussian

SCHEDULE = build_noise_schedule("flow", None)


def pair(correlation: float) -> ExactGaussian:
    """Two pixels of unit variance."""
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]])
    return ExactGaussian(SCHEDULE, torch.zeros(1, 1, 2), covariance)


def fill(sampler: str, steps: int, resample: int, count: int, correlation: float = 0.8) -> torch.Tensor:
    """Draws of both pixels where the left one is known to be 1."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    clean = torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 1, 1, 2).expand(count, -1, -1, -1)
    filling = with_known(pair(correlation), clean, torch.tensor([[True, False]]))
    grid = build_grid("uniform", SCHEDULE, steps)

    def walk(noisy, stretch):
        return SAMPLERS[sampler].walk(filling, noisy, stretch, draw)

    *_, last = inpaint(walk, draw((count, 1, 1, 2)), grid, draw, resample, jump=4)
    return last.noisy.flatten(1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_known_pixels_stay_whatever_the_sampler(sampler: str) -> None:
    filled = fill(sampler, steps=9, resample=2, count=5)
    torch.testing.assert_close(filled[:, 0], torch.ones(5, dtype=torch.float64))
    assert filled[:, 1].std() > 0.05


def test_resampling_brings_the_rest_into_harmony() -> None:
    """The true conditional mean is the correlation; a single walk falls short of it, as RePaint says."""
    short, near = (fill("ddpm", 40, resample, 4000)[:, 1].mean().item() for resample in (1, 10))
    assert abs(near - 0.8) < 0.06
    assert abs(near - 0.8) < abs(short - 0.8) / 2


def test_a_walk_has_its_steps() -> None:
    grid = build_grid("uniform", SCHEDULE, 10)
    filling = with_known(pair(0.0), torch.zeros(1, 1, 1, 2), torch.tensor([[True, False]]))
    reached = [
        round(step.level.t.item(), 6)
        for step in inpaint(
            lambda noisy, stretch: SAMPLERS["ddim"].walk(filling, noisy, stretch, torch.zeros),
            torch.zeros(1, 1, 1, 2),
            grid,
            torch.zeros,
            resample=2,
            jump=4,
        )
    ]
    assert reached == [0.9, 0.8, 0.7, 0.6] * 2 + [0.5, 0.4, 0.3, 0.2] * 2 + [0.1, 0.0] * 2


def test_noise_put_back_on_has_the_right_variance() -> None:
    """From Gaussian data at 0.3 to 0.8: mean and variance of the forward process."""
    here, there = SCHEDULE.level(torch.tensor([0.3, 0.8]))[0], SCHEDULE.level(torch.tensor([0.3, 0.8]))[1]
    generator = torch.Generator().manual_seed(0)
    noisy = 0.7 * 2 + 0.3 * torch.randn(100_000, 1, 1, 1, dtype=torch.float64, generator=generator)
    later = add_noise_from(
        noisy, here, there, lambda shape: torch.randn(*shape, dtype=torch.float64, generator=generator)
    )
    assert math.isclose(later.mean().item(), 0.2 * 2, abs_tol=0.01)
    assert math.isclose(later.std().item(), 0.8, abs_tol=0.01)


def test_known_places_of_a_smaller_space() -> None:
    known = torch.ones(4, 6, dtype=torch.bool)
    known[0, 2] = False
    assert known_in_space(known, (3, 4, 6)).tolist() == [known.tolist()]
    assert known_in_space(known, (3, 2, 3)).tolist() == [[[True, False, True], [True, True, True]]]
