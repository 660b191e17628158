"""Training times follow their densities, and sampling grids walk from 1 down to 0 in exactly S steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.diffusion.noise_schedules import NOISE_SCHEDULES, NoiseSchedule, build_noise_schedule
from models.diffusion.times import (
    BINS,
    DENSITIES,
    GRIDS,
    SMALLEST_TIME,
    Grid,
    TimeBins,
    TimeDensity,
    bin_of,
    build_grid,
)
from models.errors import UserError

FLOW = build_noise_schedule("flow")
CHAIN = build_noise_schedule("linear", 50)


def uniforms(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def drawn(name: str, schedule: NoiseSchedule, count: int = 20_000, **options: float | bool) -> Tensor:
    density = TimeDensity(name, **options)  # type: ignore[arg-type]
    return density.draw(uniforms(count), schedule)


def schedules() -> dict[str, NoiseSchedule]:
    found: dict[str, NoiseSchedule] = {"flow": FLOW}
    for name in [name for name in NOISE_SCHEDULES if name != "flow"]:
        for steps in (None, 1, 2, 7, 48):
            for zero in (False, True):
                found[f"{name}-{steps or 'continuous'}{'-zero' if zero else ''}"] = build_noise_schedule(
                    name, steps, zero
                )
    return found


SCHEDULES = schedules()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_grids_walk_from_noise_to_clean_in_every_number_of_steps(grid: str, schedule: NoiseSchedule) -> None:
    longest = schedule.steps or 40
    for steps in range(1, longest + 1):
        times = build_grid(grid, schedule, steps).levels.t
        assert times.dtype == torch.float64
        assert times.shape == (steps + 1,)
        assert times[0] == 1
        assert times[-1] == 0
        assert (times.diff() < 0).all()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_grids_of_a_long_chain(grid: str, name: str) -> None:
    schedule = build_noise_schedule(name, 1000)
    for steps in (1, 2, 3, 10, 50, 250, 300, 333, 600, 999, 1000):
        times = build_grid(grid, schedule, steps).levels.t
        assert len(times) == steps + 1
        assert times[0] == 1
        assert times[-1] == 0
        assert (times.diff() < 0).all()


@given(length=st.integers(1, 2000), data=st.data())
def test_respaced_times_are_the_chains_own(length: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, length))
    chain = build_noise_schedule("cosine", length)
    places = build_grid("uniform", chain, steps).levels.t * length
    torch.testing.assert_close(places, places.round(), rtol=0, atol=1e-9)
    gaps = -places.diff().round()
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_the_full_grid_of_a_chain_is_the_chain() -> None:
    expected = torch.arange(50, -1, -1, dtype=torch.float64) / 50
    torch.testing.assert_close(build_grid("uniform", CHAIN, 50).levels.t, expected)


def test_karras_grid_by_hand() -> None:
    """Karras et al. 2022, eq. 5 with sigma_min 0.002, sigma_max 80, rho 7, whose first time is moved to the end."""
    times = build_grid("karras", FLOW, 5).levels.t
    levels = (FLOW.sigma(times) / FLOW.alpha(times))[1:-1].tolist()
    expected = [(80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(1, 5)]
    assert levels == pytest.approx(expected, rel=1e-9)


def test_log_snr_grid_is_even() -> None:
    for name, steps in (("quadratic", 1000), ("flow", None)):
        schedule = build_noise_schedule(name, steps)
        # The first time is the schedule's very end, which may lie beyond the largest noise of the grid.
        gaps = schedule.log_snr(build_grid("log_snr", schedule, 20).levels.t[1:-1]).diff()
        torch.testing.assert_close(gaps, gaps.mean().expand(18), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("schedule", [CHAIN, build_noise_schedule("cosine", 1, True)], ids=["linear", "zero"])
def test_training_times_stay_inside(name: str, stratified: bool, schedule: NoiseSchedule) -> None:
    extremes = torch.tensor([0.0, 1 - 2**-53, 0.5], dtype=torch.float64)
    for u in (uniforms(1000), extremes, extremes[:1], extremes[1:2]):
        times = TimeDensity(name, stratified=stratified).draw(u, schedule)
        assert times.shape == u.shape
        assert times.dtype == torch.float64
        assert times.min() >= SMALLEST_TIME
        assert times.max() <= 1


def test_discrete_times_are_uniform_on_the_chain() -> None:
    places = drawn("discrete", CHAIN, 50_000, stratified=False) * 50
    torch.testing.assert_close(places, places.round(), rtol=0, atol=1e-9)
    counts = torch.bincount(places.round().long(), minlength=51)
    assert counts[0] == 0
    assert counts[1:].min() > 850
    assert counts[1:].max() < 1150


def test_uniform_times() -> None:
    times = drawn("uniform", FLOW, stratified=False)
    assert times.mean().item() == pytest.approx(0.5, abs=0.01)
    assert times.var().item() == pytest.approx(1 / 12, abs=0.002)


@pytest.mark.parametrize(("mean", "deviation"), [(None, None), (0.5, 2.0), (-1.0, 0.3)])
def test_logit_normal_times(mean: float | None, deviation: float | None) -> None:
    """Esser et al. 2024, eq. 19: the logit of t is normal."""
    density = TimeDensity("logit_normal", mean, deviation, stratified=False)
    logits = torch.logit(density.draw(uniforms(50_000), FLOW))
    assert logits.mean().item() == pytest.approx(mean or 0.0, abs=0.03)
    assert logits.std().item() == pytest.approx(deviation or 1.0, rel=0.02)


@pytest.mark.parametrize("name", ["flow", "cosine", "linear"])
def test_log_normal_times_are_edms(name: str) -> None:
    """Karras et al. 2022, table 1: ln sigma is normal with mean -1.2 and deviation 1.2."""
    schedule = build_noise_schedule(name)
    logs = -schedule.log_snr(drawn("log_normal", schedule, stratified=False)) / 2
    assert logs.mean().item() == pytest.approx(-1.2, abs=0.03)
    assert logs.std().item() == pytest.approx(1.2, rel=0.03)


@pytest.mark.parametrize("name", DENSITIES)
def test_stratified_times_have_one_in_every_slice(name: str) -> None:
    """Sorted by u, the i-th of N times lies between the quantiles i/N and (i + 1)/N of the density."""
    count = 8
    quantiles = [
        TimeDensity(name, stratified=False).draw(torch.tensor([i / count]), CHAIN).item() for i in range(count)
    ]
    for seed in range(20):
        times = TimeDensity(name).draw(uniforms(count, seed), CHAIN)
        direction = 1 if quantiles[1] >= quantiles[0] else -1
        for i, t in enumerate(times.tolist()):
            assert direction * t >= direction * quantiles[i] - 1e-12
            if i + 1 < count:
                assert direction * t <= direction * quantiles[i + 1] + 1e-12


def test_stratification_lowers_the_spread_of_the_mean() -> None:
    def spread(stratified: bool) -> float:
        density = TimeDensity("uniform", stratified=stratified)
        means = [density.draw(uniforms(16, seed), FLOW).mean().item() for seed in range(200)]
        return torch.tensor(means).std().item()

    assert spread(True) < spread(False) / 10
    assert spread(False) == pytest.approx(math.sqrt(1 / 12 / 16), rel=0.2)


def test_flow_time_grid_is_even_in_flow_time() -> None:
    for schedule in (FLOW, CHAIN, build_noise_schedule("cosine"), build_noise_schedule("linear", None, True)):
        flow_time = build_grid("flow_time", schedule, 12).levels.flow_time
        gaps = flow_time.diff()
        torch.testing.assert_close(gaps, gaps.mean().expand(12), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("grid", GRIDS)
def test_slices_of_a_grid_are_grids_with_the_same_levels_halfway(grid: str) -> None:
    whole = build_grid(grid, build_noise_schedule("cosine"), 9)
    assert len(whole) == 10 and len(whole.halfway) == 9
    part = whole[3:7]
    assert isinstance(part, Grid) and len(part) == 4 and len(part.halfway) == 3
    assert part.levels.t.equal(whole.levels.t[3:7]) and part.halfway.t.equal(whole.halfway.t[3:6])
    assert [level.t.item() for level in part] == whole.levels.t[3:7].tolist()
    middle = (whole.levels.flow_time[:-1] + whole.levels.flow_time[1:]) / 2
    torch.testing.assert_close(whole.halfway.flow_time, middle, rtol=1e-9, atol=1e-12)


# -- the frozen test grid ------------------------------------------------------------------------------------------

BIN_CASES = [
    *((name, FLOW, None) for name in ("uniform", "logit_normal", "log_normal")),
    *((name, CHAIN, None) for name in DENSITIES),
    ("discrete", build_noise_schedule("linear", 7), None),
    ("discrete", build_noise_schedule("linear", 1), None),
    ("log_normal", build_noise_schedule("cosine"), (-4.0, 0.1)),
]


def frozen(name: str, schedule: NoiseSchedule, shape: tuple[float, float] | None, count: int) -> tuple[Tensor, Tensor]:
    density = TimeDensity(name, *(shape or (None, None)))
    return TimeBins(density, schedule).frozen_times(uniforms(count), torch.randperm(count))


@pytest.mark.parametrize(("name", "schedule", "shape"), BIN_CASES)
def test_every_bin_of_the_frozen_grid_has_the_same_number(
    name: str, schedule: NoiseSchedule, shape: tuple[float, float] | None
) -> None:
    for count in (512, 100, 7, 1):
        t, weights = frozen(name, schedule, shape, count)
        assert len(t) == count and weights.sum().item() == pytest.approx(1)
        sizes = torch.bincount(bin_of(t), minlength=BINS)
        filled = sizes[sizes > 0]
        assert filled.max() - filled.min() <= 1
        if count >= 100:
            plain = TimeDensity(name, *(shape or (None, None)), stratified=False).draw(uniforms(20_000), schedule)
            masses = torch.bincount(bin_of(plain), minlength=BINS) / 20_000
            assert (sizes[masses > 1e-3] > 0).all() and (sizes[masses == 0] <= count / BINS + 1).all()


@pytest.mark.parametrize(("name", "schedule", "shape"), BIN_CASES)
def test_the_weighted_mean_is_that_of_the_density(
    name: str, schedule: NoiseSchedule, shape: tuple[float, float] | None
) -> None:
    t, weights = frozen(name, schedule, shape, 4000)
    plain = TimeDensity(name, *(shape or (None, None))).draw(uniforms(40_000), schedule)
    for function in (torch.ones_like, lambda t: t, torch.square, lambda t: (6 * t).sin()):
        expected = function(plain).mean().item()
        assert (weights * function(t)).sum().item() == pytest.approx(expected, abs=2e-3)


def test_edges_of_the_bins_are_the_distribution_function() -> None:
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(TimeBins(TimeDensity("uniform"), FLOW).edges(), u, rtol=0, atol=1e-9)
    edges = TimeBins(TimeDensity("logit_normal"), FLOW).edges()
    torch.testing.assert_close(edges[1:-1], torch.special.ndtr(torch.logit(u[1:-1])), rtol=0, atol=1e-9)
    assert TimeBins(
        TimeDensity("discrete"), build_noise_schedule("linear", 5)
    ).edges().diff().tolist() == pytest.approx([0, 0.2] * 5)


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"lognormal.*choose from discrete"):
        TimeDensity("lognormal")
    with pytest.raises(UserError, match=r"time_deviation 0\.0: must be more than 0"):
        TimeDensity("logit_normal", deviation=0.0)
    with pytest.raises(UserError, match="times discrete: needs a chain"):
        drawn("discrete", FLOW)
    with pytest.raises(UserError, match=r"karass.*choose from uniform, flow_time, karras"):
        build_grid("karass", FLOW, 3)
    with pytest.raises(UserError, match="steps 0: must be at least 1"):
        build_grid("uniform", FLOW, 0)
    with pytest.raises(UserError, match="steps 51: must be at most 50, the length of the chain"):
        build_grid("uniform", CHAIN, 51)
