"""Samplers against the truth: on Gaussian data the ideal denoiser and the ODE's solution are closed forms."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.diffusion.noise_schedules import build_noise_schedule
from models.diffusion.predictions import PREDICTIONS, build_prediction
from models.diffusion.samplers import SAMPLERS, find_sampler
from models.diffusion.times import GRIDS, Grid, build_grid
from models.errors import UserError
from tests.exact import correlated_gaussian, moments, pixel_gaussian, through_network
from tests.models.diffusion.sampler_cases import (
    DETERMINISTIC,
    DEVIATIONS,
    EVERY,
    MEANS,
    SCHEDULES,
    Options,
    label,
    start,
    walk,
)

# -- moments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", EVERY, ids=label)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_mean_and_variance_at_every_noise_level(sampler: tuple[str, Options], schedule: str) -> None:
    """The mean is exact in any number of steps; the variance as far as the steps are small, everywhere."""
    exact = pixel_gaussian(SCHEDULES[schedule], MEANS, DEVIATIONS)
    worst = []
    for steps in (10, 40, 160):
        grid = build_grid("uniform", exact.noise_schedule, steps)
        reached = moments(SAMPLERS[sampler[0]].walk, exact, grid, **sampler[1])
        for at in reached:
            torch.testing.assert_close(at.mean, at.true_mean, rtol=1e-9, atol=1e-9)
        worst.append(max((at.variance / at.true_variance - 1).abs().max().item() for at in reached))
    assert worst[2] < 0.15
    assert worst[2] < worst[1] < worst[0]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("diffusion", [0.0, 0.5, 1.0])
def test_the_sde_of_every_diffusion_keeps_the_marginals(schedule: str, diffusion: float) -> None:
    """First order in the step, at every level: a drift with a wrong factor would leave an error that stays."""
    exact = pixel_gaussian(SCHEDULES[schedule], MEANS, DEVIATIONS)
    errors = []
    for steps in (100, 200):
        flow_time = torch.linspace(0.98, 0.02, steps + 1, dtype=torch.float64)
        grid = Grid.of(exact.noise_schedule, exact.noise_schedule.level_at(flow_time).t)
        reached = moments(SAMPLERS["sde"].walk, exact, grid, diffusion=diffusion)
        errors.append(torch.stack([(at.variance / at.true_variance - 1).abs() for at in reached]).amax(0))
    assert errors[1].max() < 0.03
    ratio = errors[0] / errors[1]
    assert ((ratio > 1.8) & (ratio < 2.2)).all()


def test_the_sde_on_data_of_half_a_unit() -> None:
    exact = pixel_gaussian(SCHEDULES["flow"], [0.0], [0.5])
    for diffusion in (0.0, 0.5, 1.0):
        *_, last = moments(
            SAMPLERS["sde"].walk, exact, build_grid("uniform", SCHEDULES["flow"], 400), diffusion=diffusion
        )
        assert last.variance.sqrt().item() == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_posterior_variance_is_exact_for_a_single_image(schedule: str) -> None:
    exact = pixel_gaussian(SCHEDULES[schedule], MEANS, [1e-9] * 4)
    for at in moments(
        SAMPLERS["ddpm"].walk, exact, build_grid("uniform", exact.noise_schedule, 7), variance="posterior"
    ):
        torch.testing.assert_close(at.variance, at.true_variance, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_beta_variance_is_exact_for_unit_data(schedule: str) -> None:
    """Until the last step, which adds no noise."""
    exact = pixel_gaussian(SCHEDULES[schedule], MEANS, [1.0] * 4)
    grid = build_grid("uniform", exact.noise_schedule, 7)
    for at in moments(SAMPLERS["ddpm"].walk, exact, grid, variance="beta")[:-1]:
        torch.testing.assert_close(at.variance, at.true_variance, rtol=1e-9, atol=1e-12)


def test_ddpm_variances_are_the_papers() -> None:
    """Ho et al. 2020, section 3.2: beta-tilde and beta, the squares of what one unit of fresh noise changes."""
    chain = build_noise_schedule("linear", 1000)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - betas).cumprod(0)
    exact = pixel_gaussian(chain, [0.0], [0.5])
    for k in (2, 3, 500, 1000):
        grid = Grid.of(chain, torch.tensor([k, k - 1], dtype=torch.float64) / 1000)
        tilde = (1 - alpha_bar[k - 2]) / (1 - alpha_bar[k - 1]) * betas[k - 1]
        for variance, expected in (("posterior", tilde), ("beta", betas[k - 1])):
            noisy = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
            quiet = SAMPLERS["ddpm"].walk(exact, noisy, grid, lambda shape: torch.zeros(*shape), variance=variance)
            loud = SAMPLERS["ddpm"].walk(exact, noisy, grid, lambda shape: torch.ones(*shape), variance=variance)
            difference = next(loud).noisy - next(quiet).noisy
            assert difference.item() ** 2 == pytest.approx(expected.item(), rel=1e-7)


def test_ddim_of_eta_one_is_ddpm() -> None:
    exact = correlated_gaussian(SCHEDULES["cosine-chain"], (1, 2, 2))
    grid = build_grid("uniform", exact.noise_schedule, 9)
    noisy = start(exact, grid[0])
    pairs = zip(walk(("ddim", {"eta": 1.0}), exact, noisy, grid), walk(("ddpm", {}), exact, noisy, grid), strict=True)
    for ddim, ddpm in pairs:
        torch.testing.assert_close(ddim.noisy, ddpm.noisy)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_euler_is_ddim(schedule: str) -> None:
    exact = correlated_gaussian(SCHEDULES[schedule], (1, 2, 2))
    grid = build_grid("uniform", exact.noise_schedule, 9)
    noisy = start(exact, grid[0])
    for other in (("euler", {}), ("sde", {"diffusion": 0.0})):
        for one, two in zip(walk(("ddim", {}), exact, noisy, grid), walk(other, exact, noisy, grid), strict=True):
            torch.testing.assert_close(one.noisy, two.noisy, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [each for each in EVERY if each[0] not in ("ddpm",)], ids=label)
def test_samplers_do_not_depend_on_the_schedule(sampler: tuple[str, Options]) -> None:
    """On the same noise levels, a flow and a cosine differ by a scale alone, so the images are the same."""
    ratios = torch.tensor([50.0, 10.0, 3.0, 1.0, 0.4, 0.1], dtype=torch.float64)
    made = []
    for name in ("flow", "cosine"):
        exact = correlated_gaussian(SCHEDULES[name], (1, 2, 2))
        times = torch.cat([exact.noise_schedule.t_from_log_snr(-2 * ratios.log()), torch.zeros(1)])
        grid = Grid.of(exact.noise_schedule, times)
        scale = grid[0].alpha
        noisy = scale * (exact.mean + 50 * torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
        made.append(walk(sampler, exact, noisy, grid)[-1].noisy)
    torch.testing.assert_close(made[0], made[1], rtol=1e-7, atol=1e-7)


# -- what callers rely on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", EVERY, ids=label)
def test_steps_and_network_evaluations(sampler: tuple[str, Options]) -> None:
    """S updates for every S in 1..T, with one network call each; two for midpoint and heun (one in heun's last)."""
    for length in (1, 2, 13):
        chain = build_noise_schedule("linear", length)
        for steps in range(1, length + 1):
            exact = pixel_gaussian(chain, MEANS, DEVIATIONS)
            grid = build_grid("uniform", chain, steps)
            reached = walk(sampler, exact, torch.ones(1, 1, 1, 4, dtype=torch.float64), grid)
            assert [float(step.level.t) for step in reached] == grid.levels.t[1:].tolist()
            expected = {"midpoint": 2 * steps, "heun": 2 * steps - 1}.get(sampler[0], steps)
            assert exact.calls == expected == SAMPLERS[sampler[0]].nfe(steps)


@pytest.mark.parametrize("sampler", EVERY, ids=label)
def test_the_last_image_is_the_last_estimate_or_better(sampler: tuple[str, Options]) -> None:
    """At t = 0 nothing but the clean estimate is left, whatever the sampler."""
    exact = correlated_gaussian(SCHEDULES["flow"], (1, 2, 2))
    grid = build_grid("uniform", exact.noise_schedule, 6)
    *_, last = walk(sampler, exact, start(exact, grid[0]), grid)
    assert float(last.level.t) == 0
    torch.testing.assert_close(
        last.noisy, last.estimate.clean, rtol=1e-9, atol=0.2 if sampler[0] == "midpoint" else 1e-9
    )


@pytest.mark.parametrize("sampler", EVERY, ids=label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_images(sampler: tuple[str, Options], dtype: torch.dtype) -> None:
    exact = correlated_gaussian(SCHEDULES["zero-terminal-snr"], (1, 2, 2))
    grid = build_grid("uniform", exact.noise_schedule, 10)
    noisy = start(exact, grid[0]).to(dtype)
    double = walk(sampler, exact, noisy.double(), grid)
    if dtype == torch.float64:
        assert all(step.noisy.dtype == dtype for step in double)
        return
    drawn = iter(
        [torch.randn(noisy.shape, dtype=torch.float64, generator=g) for g in [torch.Generator().manual_seed(0)] * 12]
    )
    single = list(SAMPLERS[sampler[0]].walk(exact, noisy, grid, lambda shape: next(drawn).float(), **sampler[1]))
    for step, reference in zip(single, double, strict=True):
        assert step.noisy.dtype == dtype
        torch.testing.assert_close(step.noisy, reference.noisy.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", EVERY, ids=label)
def test_the_start_is_not_written_over(sampler: tuple[str, Options]) -> None:
    exact = pixel_gaussian(SCHEDULES["flow"], MEANS, DEVIATIONS)
    noisy = torch.ones(1, 1, 1, 4, dtype=torch.float64)
    kept = [step.noisy for step in walk(sampler, exact, noisy, build_grid("uniform", SCHEDULES["flow"], 4))]
    again = [step.noisy for step in walk(sampler, exact, noisy, build_grid("uniform", SCHEDULES["flow"], 4))]
    assert (noisy == 1).all()
    assert all(one.equal(two) for one, two in zip(kept, again, strict=True))
    assert all(not one.equal(two) for one, two in pairwise(kept))


def test_options_and_refusals() -> None:
    assert SAMPLERS["ddim"].options == {"eta": 0.0}
    assert SAMPLERS["unipc"].options == {"order": 2}
    assert SAMPLERS["euler"].options == {}
    with pytest.raises(UserError, match=r"dimm.*choose from ddpm, ddim"):
        find_sampler("dimm")
    wrong: list[tuple[str, Options, str]] = [
        ("ddpm", {"variance": "tilde"}, "variance tilde: must be one of posterior, beta"),
        ("ddim", {"eta": 1.5}, "eta 1.5: must be at least 0 and at most 1"),
        ("dpmpp_2m", {"eta": -0.1}, "eta -0.1"),
        ("sde", {"diffusion": -1.0}, "diffusion -1.0: must be at least 0"),
        ("unipc", {"order": 4}, "order 4: must be at least 1 and at most 3"),
    ]
    for name, options, message in wrong:
        with pytest.raises(UserError, match=message):
            SAMPLERS[name].check(options)


@pytest.mark.parametrize("sampler", EVERY, ids=label)
def test_the_row_says_whether_noise_is_added(sampler: tuple[str, Options]) -> None:
    row, drawn = SAMPLERS[sampler[0]], []
    exact = pixel_gaussian(SCHEDULES["flow"], MEANS, DEVIATIONS)

    def draw(shape: tuple[int, ...]) -> Tensor:
        drawn.append(shape)
        return torch.zeros(shape, dtype=torch.float64)

    noisy = torch.ones(1, 1, 1, 4, dtype=torch.float64)
    list(row.walk(exact, noisy, build_grid("uniform", SCHEDULES["flow"], 3), draw, **sampler[1]))
    assert bool(drawn) == row.adds_noise({**row.options, **sampler[1]})


# -- the whole product ----------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(
    name=st.sampled_from(["flow", "cosine", "linear", "quadratic", "sigmoid"]),
    length=st.one_of(st.none(), st.integers(1, 40)),
    zero=st.booleans(),
    grid=st.sampled_from(list(GRIDS)),
    sampler=st.sampled_from(EVERY),
    steps=st.integers(1, 40),
)
def test_every_prediction_gives_the_same_images(
    name: str, length: int | None, zero: bool, grid: str, sampler: tuple[str, Options], steps: int
) -> None:
    """Prediction x schedule x grid x sampler: the same images from the same truth, finite, and about the true mean."""
    schedule = build_noise_schedule(name, None if name == "flow" else length, zero)
    exact = correlated_gaussian(schedule, (1, 2, 2))
    levels = build_grid(grid, schedule, min(steps, schedule.steps or steps))
    middle = levels[0].alpha * exact.mean
    noisy = torch.cat([start(exact, levels[0], 2), middle.expand(1, 1, 2, 2)])
    reference = walk(sampler, exact, noisy, levels)
    assert len(reference) == len(levels) - 1
    assert all(step.noisy.isfinite().all() for step in reference)
    if sampler in DETERMINISTIC:
        torch.testing.assert_close(reference[-1].noisy[2:], exact.mean[None], rtol=1e-7, atol=1e-7)
    for prediction in PREDICTIONS:
        if prediction == "eps" and schedule.alpha(torch.ones(())) < 1e-8:
            continue
        denoiser = through_network(exact, build_prediction(prediction, 0.6))
        for found, expected in zip(walk(sampler, denoiser, noisy, levels), reference, strict=True):
            torch.testing.assert_close(found.noisy, expected.noisy, rtol=1e-6, atol=1e-6)
