"""Log-densities against closed forms and a normaliser that is known."""

from __future__ import annotations

import math

import pytest
import torch

from models.diffusion.noise_schedules import NoiseSchedule, build_noise_schedule
from models.evaluation.likelihood import density_grid, exact_probes, log_density, random_probes
from tests.exact import correlated_gaussian, pixel_gaussian
from tests.models.evaluation.densities import Mixture, log_density_of, noisy_log_density_of

SHAPE = (1, 3, 4)
CPU = torch.device("cpu")
EXACT = exact_probes(SHAPE, CPU)
FLOW = build_noise_schedule("flow")
SCHEDULES = {
    "flow": FLOW,
    "cosine": build_noise_schedule("cosine"),
    "chain": build_noise_schedule("linear", 1000, zero_terminal_snr=True),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_flow_time_and_back(schedule: NoiseSchedule) -> None:
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    times = schedule.level(t).flow_time
    assert times[0] == 0 and times[-1] == pytest.approx(1, abs=1e-8) and (times.diff() > 0).all()
    assert torch.allclose(schedule.level_at(times).t, t, atol=1e-6)


def test_the_grid_begins_where_the_schedule_ends() -> None:
    short = build_noise_schedule("linear", 1000)
    flow_time = density_grid(short, 7, first=0.02).levels.flow_time
    assert len(flow_time) == 8 and (flow_time.diff() < 0).all()
    assert flow_time[-1] == pytest.approx(0.02)
    assert flow_time[0] == pytest.approx(short.last_flow_time()) and flow_time[0] < 1


@pytest.mark.parametrize("first", [0.0, 0.05])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_gaussian_densities_by_the_exact_trace(schedule: NoiseSchedule, first: float) -> None:
    exact = correlated_gaussian(schedule, SHAPE)
    grid = density_grid(schedule, 60, first)
    noisy = exact.draw_noisy(grid[-1], 8, torch.Generator().manual_seed(1))
    found = log_density(exact, noisy, None, grid, EXACT)
    assert found.dtype == torch.float64
    assert torch.allclose(found, noisy_log_density_of(exact, noisy, grid[-1]), rtol=1e-3, atol=2e-3)


def test_halving_the_steps_quarters_the_error() -> None:
    exact = correlated_gaussian(FLOW, SHAPE)
    clean = exact.draw_noisy(exact.noise_schedule.level(torch.zeros(())), 4, torch.Generator().manual_seed(1))
    true = log_density_of(exact, clean)
    errors = [
        (log_density(exact, clean, None, density_grid(FLOW, steps, 0.0), EXACT) - true).abs().max()
        for steps in (40, 80)
    ]
    assert float(errors[0] / errors[1]) == pytest.approx(4, rel=0.15)


def test_a_chain_that_keeps_a_trace_of_signal_is_off_by_that_trace() -> None:
    schedule = build_noise_schedule("linear", 1000)
    exact = correlated_gaussian(schedule, SHAPE)
    clean = exact.draw_noisy(exact.noise_schedule.level(torch.zeros(())), 8, torch.Generator().manual_seed(1))
    found = log_density(exact, clean, None, density_grid(schedule, 60, 0.0), EXACT)
    assert torch.allclose(found, log_density_of(exact, clean), atol=0.05)


def test_random_probes_are_unbiased() -> None:
    exact = correlated_gaussian(FLOW, SHAPE)
    clean = exact.draw_noisy(exact.noise_schedule.level(torch.zeros(())), 1, torch.Generator().manual_seed(1)).expand(
        400, *SHAPE
    )
    grid = density_grid(FLOW, 20, 0.0)
    (true,) = log_density(exact, clean[:1], None, grid, EXACT)
    found = log_density(exact, clean, None, grid, random_probes(0, range(400), SHAPE, 1, CPU))
    four = log_density(exact, clean, None, grid, random_probes(0, range(400), SHAPE, 4, CPU))
    assert float(found.std()) > 0.1
    assert abs(float(found.mean() - true)) < 3 * float(found.std()) / math.sqrt(400)
    assert float(four.std() / found.std()) == pytest.approx(0.5, rel=0.2)


def test_probes_are_signs_that_depend_on_seed_and_image_alone() -> None:
    probes = random_probes(3, [5, 6, 7], SHAPE, 4, CPU)
    assert probes.shape == (4, 3, *SHAPE) and torch.all(probes.abs() == 0.5)
    assert torch.equal(probes[:, 1:2], random_probes(3, [6], SHAPE, 4, CPU))
    assert not torch.equal(probes, random_probes(4, [5, 6, 7], SHAPE, 4, CPU))


def test_a_mixture_integrates_to_one() -> None:
    """Neither its flow nor its divergence is linear, and its normaliser is known."""
    parts = [pixel_gaussian(FLOW, mean, [0.3, 0.4]) for mean in ([-0.8, 0.3], [0.9, -0.5], [0.2, 1.0])]
    mixture = Mixture(parts)
    axis = torch.linspace(-3, 3, 41, dtype=torch.float64)
    places = torch.cartesian_prod(axis, axis).reshape(-1, 1, 1, 2)
    found = log_density(mixture, places, None, density_grid(FLOW, 50, 1e-6), exact_probes((1, 1, 2), CPU))
    assert float(found.exp().sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=3e-3)
    likely = mixture.log_density(places) > -6
    assert torch.allclose(found[likely], mixture.log_density(places)[likely], atol=0.02)
