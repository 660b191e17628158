"""Inversion against Gaussian data, whose denoiser is exact: there and back again."""

from __future__ import annotations

import pytest
import torch

from models.diffusion.editing import invert
from models.diffusion.noise_schedules import NoiseSchedule, build_noise_schedule
from models.diffusion.samplers import ddim
from models.diffusion.times import build_grid
from tests.exact import correlated_gaussian, no_draw

SHAPE = (1, 2, 3)


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def there_and_back(schedule: NoiseSchedule, steps: int, refinements: int) -> tuple[float, torch.Tensor]:
    """The largest error of the images that come back, and the noise between."""
    exact = correlated_gaussian(schedule, SHAPE)
    grid = build_grid("uniform", schedule, steps)
    noisy = images()
    for step in invert(exact, noisy, grid, refinements):
        noisy = step.noisy
    noise = noisy
    for step in ddim(exact, noisy, grid, no_draw):
        noisy = step.noisy
    return (noisy - images()).abs().max().item(), noise


@pytest.mark.parametrize(("name", "chain"), [("flow", None), ("cosine", 1000), ("linear", 1000)])
def test_the_image_comes_back(name: str, chain: int | None) -> None:
    error, _ = there_and_back(build_noise_schedule(name, chain), steps=20, refinements=12)
    assert error < 1e-3


def test_refinements_pay() -> None:
    schedule = build_noise_schedule("flow", None)
    errors = [there_and_back(schedule, 20, refinements)[0] for refinements in (0, 2, 4)]
    assert errors[0] > 4 * errors[1] > 16 * errors[2]


def test_the_noise_is_where_the_ode_leads() -> None:
    """With many steps DDIM is the probability-flow ODE, whose map has a closed form for Gaussian data."""
    schedule = build_noise_schedule("flow", None)
    _, noise = there_and_back(schedule, 400, refinements=2)
    exact = correlated_gaussian(schedule, SHAPE)
    true = exact.flow_map(images(), schedule.level(torch.zeros(())), schedule.level(torch.ones(())))
    assert (noise - true).abs().max() < 0.01 * true.abs().max()


def test_calls_and_times() -> None:
    schedule = build_noise_schedule("cosine", 50)
    exact = correlated_gaussian(schedule, SHAPE)
    grid = build_grid("uniform", schedule, 10)
    reached = [step.level.t.item() for step in invert(exact, images(), grid, refinements=3)]
    assert reached == grid.levels.t.flip(0)[1:].tolist()
    assert exact.calls == 10 * 4
