"""Orders and single steps of the samplers against the closed form of the ODE's solution on Gaussian data."""

import math

import pytest
import torch
from torch import Tensor

from models.diffusion.noise_schedules import NoiseSchedule
from models.diffusion.samplers import SAMPLERS
from models.diffusion.times import GRIDS, Grid, build_grid
from tests.exact import correlated_gaussian, no_draw, pixel_gaussian
from tests.models.diffusion.sampler_cases import (
    DETERMINISTIC,
    DEVIATIONS,
    MEANS,
    SCHEDULES,
    Options,
    label,
    start,
    walk,
)

# Deviations of the data. With a single one the errors change sign on the way, and orders mislead.
SPREAD = [0.25, 0.35, 0.5, 0.7, 1.0]


def root_mean_square(sampler: tuple[str, Options], schedule: NoiseSchedule, times: Tensor, steps: int) -> float:
    """Return the error after `steps` steps, as a root mean square over Gaussians of the deviations SPREAD."""
    exact, grid = pixel_gaussian(schedule, [0.3] * len(SPREAD), SPREAD), Grid.of(schedule, times)
    noisy = start(exact, grid[0], 64)
    name, options = sampler
    reached = list(SAMPLERS[name].walk(exact, noisy, grid, no_draw, **options))[steps - 1]
    assert reached.level.t == grid[steps].t
    return (reached.noisy - exact.flow_map(noisy, grid[0], grid[steps])).square().mean().sqrt().item()


def error(sampler: tuple[str, Options], schedule: NoiseSchedule, steps: int) -> float:
    """Return the error between two moments inside time, in equal steps of log-SNR.

    The grid goes on by two steps, because UniPC lowers its order in the last ones.
    """
    half_log_snr = torch.linspace(-2.5, 2.5, steps + 1, dtype=torch.float64)
    beyond = half_log_snr[-1] + 5 / steps * torch.arange(1, 3)
    times = schedule.t_from_log_snr(2 * torch.cat([half_log_snr, beyond]))
    return root_mean_square(sampler, schedule, times, steps)


ORDERS = {
    "ddim": 1,
    "euler": 1,
    "sde-0.0": 1,
    "midpoint": 2,
    "heun": 2,
    "dpmpp_2m": 2,
    "unipc-1": 2,
    "unipc-2": 3,
    "unipc-3": 3.5,
}


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=label)
@pytest.mark.parametrize("schedule", ["flow", "cosine", "linear-chain"])
def test_order_of_convergence(sampler: tuple[str, Options], schedule: str) -> None:
    """Half the step divides the error by 2^order. UniPC's corrector adds one order (Zhao et al. 2023, theorem 3.1)."""
    coarse, fine = (error(sampler, SCHEDULES[schedule], steps) for steps in (32, 64))
    assert math.log2(coarse / fine) > ORDERS[label(sampler)] - 0.15


def test_on_uniform_grids_heun_keeps_its_order_on_the_flow_alone() -> None:
    """The order falls towards 1 on variance-preserving schedules, where sigma grows like sqrt(t) near t = 0."""

    def order(name: str, steps: int) -> float:
        schedule = SCHEDULES[name]
        coarse, fine = (
            root_mean_square(("heun", {}), schedule, build_grid("uniform", schedule, count).levels.t, count)
            for count in (steps, 2 * steps)
        )
        return math.log2(coarse / fine)

    assert order("flow", 128) > 1.9
    assert order("cosine", 128) < min(1.5, order("cosine", 16))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=label)
def test_the_last_step_is_its_closed_form(sampler: tuple[str, Options], schedule: str) -> None:
    """From a level straight to t = 0, every solver of one evaluation gives the clean estimate; Heun does so too."""
    exact = pixel_gaussian(SCHEDULES[schedule], MEANS, DEVIATIONS)
    grid = Grid.of(exact.noise_schedule, torch.tensor([0.05, 0.0], dtype=torch.float64))
    noisy = start(exact, grid[0])
    (last,) = walk(sampler, exact, noisy, grid)
    level = grid.halfway[0] if sampler[0] == "midpoint" else grid[0]
    if sampler[0] == "midpoint":
        first = exact(noisy, grid[0])
        at = noisy / grid[0].flow_scale + (level.flow_time - grid[0].flow_time) * (first.noise - first.clean)
        second = exact(level.flow_scale * at, level)
        expected = noisy / grid[0].flow_scale - grid[0].flow_time * (second.noise - second.clean)
    else:
        variance, alpha, sigma = exact.variances, level.alpha, level.sigma
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        order = exact.basis.abs().argmax(1)
        expected = exact.mean + gain[order] * (noisy - alpha * exact.mean)
    torch.testing.assert_close(last.noisy, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=label)
@pytest.mark.parametrize("schedule", ["flow", "cosine", "linear-chain", "zero-terminal-snr"])
@pytest.mark.parametrize("grid", GRIDS)
def test_whole_walk_against_the_solution(sampler: tuple[str, Options], schedule: str, grid: str) -> None:
    """Point by point from t = 1 to t = 0, on correlated pixels.

    The last step begins at the smallest noise of the grid, so the error of the best solvers stops falling there.
    """
    exact = correlated_gaussian(SCHEDULES[schedule], (1, 2, 2))
    errors = []
    for steps in (20, 80):
        levels = build_grid(grid, exact.noise_schedule, steps)
        noisy = start(exact, levels[0])
        name, options = sampler
        *_, last = SAMPLERS[name].walk(exact, noisy, levels, no_draw, **options)
        errors.append((last.noisy - exact.flow_map(noisy, levels[0], levels[-1])).abs().max().item())
    first_order = ORDERS[label(sampler)] == 1
    assert errors[1] < (0.15 if first_order else 0.03)
    assert errors[1] < errors[0] / (2.5 if first_order else 4) or errors[1] < 1e-3
