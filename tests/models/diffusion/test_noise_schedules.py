"""Noise schedules against their papers, their inverses, and at both ends of time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.diffusion.chains import MAX_BETA
from models.diffusion.noise_schedules import NOISE_SCHEDULES, Chain, NoiseSchedule, build_noise_schedule
from models.diffusion.times import build_grid
from models.errors import UserError
from tests.exact import betas_of, pixel_gaussian
from tests.models.diffusion.sampler_cases import DEVIATIONS, MEANS, walk

CHAINS = tuple(name for name in NOISE_SCHEDULES if name != "flow")
LENGTHS = (*range(1, 65), 250, 4000)
INSIDE = torch.linspace(0.003, 0.997, 499, dtype=torch.float64)


def chain(name: str, steps: int, zero_terminal_snr: bool = False) -> Chain:
    schedule = build_noise_schedule(name, steps, zero_terminal_snr)
    assert isinstance(schedule, Chain)
    return schedule


def every_schedule() -> list[tuple[str, NoiseSchedule]]:
    found = [("flow", build_noise_schedule("flow"))]
    for name in CHAINS:
        for steps in (None, 1, 2, 10, 1000):
            for zero in (False, True):
                label = f"{name}-{steps or 'continuous'}{'-zero' if zero else ''}"
                found.append((label, build_noise_schedule(name, steps, zero)))
    return found


EVERY = [pytest.param(schedule, id=label) for label, schedule in every_schedule()]


@pytest.mark.parametrize("schedule", EVERY)
def test_from_clean_to_noise(schedule: NoiseSchedule) -> None:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert alpha.dtype == sigma.dtype == torch.float64
    assert alpha[0] == 1
    assert sigma[0] == 0
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()
    assert alpha[-1] < 0.032
    assert sigma[-1] > 0.9994
    assert (schedule.log_snr(t).diff() < 0).all()
    assert not schedule.log_snr(t).isnan().any()


@pytest.mark.parametrize("schedule", [each for each in EVERY if each.id != "flow"])
def test_variance_is_preserved(schedule: NoiseSchedule) -> None:
    t = torch.linspace(0, 1, 301, dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones_like(t))


@pytest.mark.parametrize("schedule", EVERY)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3, 1)])
def test_times_of_any_shape_and_type(schedule: NoiseSchedule, shape: tuple[int, ...]) -> None:
    t = torch.rand(shape, generator=torch.Generator().manual_seed(0)).clamp(0.01, 0.99)
    level = schedule.level(t)
    for values in (level.t, level.alpha, level.sigma):
        assert values.shape == shape and values.dtype == torch.float64
    back = schedule.t_from_log_snr(schedule.log_snr(t))
    assert back.shape == shape
    torch.testing.assert_close(back, t.double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("schedule", EVERY)
def test_log_snr_and_its_inverse(schedule: NoiseSchedule) -> None:
    snr = (schedule.alpha(INSIDE) / schedule.sigma(INSIDE)) ** 2
    torch.testing.assert_close(schedule.log_snr(INSIDE), snr.log())
    torch.testing.assert_close(schedule.t_from_log_snr(schedule.log_snr(INSIDE)), INSIDE, rtol=0, atol=1e-10)
    ends = schedule.t_from_log_snr(torch.tensor([1e4, -1e4], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CHAINS if name != "sigmoid"])
@pytest.mark.parametrize("zero", [False, True])
def test_closed_inverses_evaluate_the_curve_once_or_never(name: str, zero: bool, monkeypatch) -> None:
    """Bisection, which evaluates it 60 times, is left for the sigmoid schedule, whose curve has no closed inverse."""
    schedule = build_noise_schedule(name, None, zero)
    log_snr = schedule.log_snr(INSIDE)
    calls = []
    curve = schedule.curve  # type: ignore[attr-defined]
    counting = type(curve)(lambda t: calls.append(1) or curve.log_alpha(t), curve.inverse)
    monkeypatch.setattr(schedule, "curve", counting)
    torch.testing.assert_close(schedule.t_from_log_snr(log_snr), INSIDE, rtol=0, atol=1e-10)
    assert len(calls) == 0


def test_flow_is_a_straight_line() -> None:
    t = torch.tensor([0.0, 0.25, 1.0])
    flow = build_noise_schedule("flow")
    assert flow.alpha(t).tolist() == [1.0, 0.75, 0.0]
    assert flow.sigma(t).tolist() == [0.0, 0.25, 1.0]


def test_linear_chain_of_a_thousand_is_ddpms() -> None:
    """Ho et al. 2020, section 4: betas from 1e-4 to 0.02 in a straight line, T = 1000."""
    expected = np.linspace(1e-4, 0.02, 1000, dtype=np.float64)
    np.testing.assert_allclose(betas_of(chain("linear", 1000)).numpy(), expected, rtol=1e-11)
    alpha_bar = np.cumprod(1 - expected)
    np.testing.assert_allclose(chain("linear", 1000).table[1:].numpy() ** 2, alpha_bar, rtol=1e-11)


def test_cosine_chain_is_the_papers() -> None:
    """Nichol & Dhariwal 2021, eq. 17, with betas of at most 0.999."""

    def curve(k: float, steps: int) -> float:
        return math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    for steps in (1, 8, 1000):
        betas = [min(1 - curve(k + 1, steps) / curve(k, steps), 0.999) for k in range(steps)]
        np.testing.assert_allclose(betas_of(chain("cosine", steps)).numpy(), betas, rtol=1e-9)


def test_quadratic_and_sigmoid_betas_at_a_thousand() -> None:
    place = np.linspace(0, 1, 1000)
    quadratic = np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2
    sigmoid = 1 / (1 + np.exp(-(12 * place - 6))) * (0.02 - 1e-4) + 1e-4
    np.testing.assert_allclose(betas_of(chain("quadratic", 1000)).numpy(), quadratic, rtol=1e-9)
    np.testing.assert_allclose(betas_of(chain("sigmoid", 1000)).numpy(), sigmoid, rtol=1e-9)


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_of_any_length_ends_in_noise(name: str) -> None:
    longest = chain(name, 1000).table[-1]
    for steps in LENGTHS:
        made = chain(name, steps)
        assert made.table.shape == (steps + 1,)
        assert (made.table.diff() < 0).all()
        assert (betas_of(made) > 0).all()
        assert (betas_of(made) <= MAX_BETA + 1e-12).all()
        assert made.table[-1] < 0.032
        if name != "cosine" and steps > 2:
            torch.testing.assert_close(made.table[-1], longest, rtol=1e-9, atol=0)


def test_published_betas_are_the_same_for_every_length() -> None:
    """Ho et al. 2020 for any T, as repositories use it: betas from 1e-4 to 0.02. At T = 1000 nothing is rescaled."""
    for steps in (1, 2, 100, 1000, 4000):
        published = build_noise_schedule("linear", steps, chain_betas="published")
        assert isinstance(published, Chain)
        expected = np.linspace(1e-4, 0.02, steps)
        np.testing.assert_allclose(betas_of(published).numpy(), expected, rtol=1e-9)
        np.testing.assert_allclose(published.table[1:].numpy() ** 2, np.cumprod(1 - expected), rtol=1e-9)
    for name, (first, middle, last) in {
        "linear": (1e-4, 0.01005, 0.02),
        "quadratic": (1e-4, (1e-4**0.5 + 0.02**0.5) ** 2 / 4, 0.02),
        "sigmoid": (1e-4 + 0.0199 / (1 + math.exp(6)), 0.01005, 1e-4 + 0.0199 / (1 + math.exp(-6))),
    }.items():
        published = build_noise_schedule(name, 101, chain_betas="published")
        assert isinstance(published, Chain)
        np.testing.assert_allclose(betas_of(published)[[0, 50, 100]].numpy(), [first, middle, last], rtol=1e-9)
        same = build_noise_schedule(name, 1000, chain_betas="published")
        torch.testing.assert_close(same.alpha(INSIDE), chain(name, 1000).alpha(INSIDE), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("steps", "kept"), [(50, 0.777), (100, 0.604), (250, 0.282), (1000, 0.00635)])
def test_short_published_chains_keep_signal(steps: int, kept: float) -> None:
    end = build_noise_schedule("linear", steps, chain_betas="published").level(torch.ones(()))
    assert end.alpha.item() == pytest.approx(kept, rel=1e-2)
    inside = build_noise_schedule("linear", steps, True, "published").level(torch.ones(()))
    assert inside.alpha.item() == 0


def test_pure_noise_is_a_wrong_start_of_a_short_published_chain() -> None:
    """The exact denoiser of a Gaussian takes pure noise along the ODE to the wrong mean, which has a closed form.

    From the true distribution at t = 1 it is right. A rescaled chain of the same length is right from pure noise.
    """
    mean, deviation = torch.tensor([MEANS, DEVIATIONS], dtype=torch.float64)
    found = {}
    for rule in ("published", "rescaled"):
        exact = pixel_gaussian(build_noise_schedule("linear", 100, chain_betas=rule), MEANS, DEVIATIONS)
        grid = build_grid("log_snr", exact.noise_schedule, 60)
        alpha, sigma = grid.levels.alpha[0], grid.levels.sigma[0]
        starts = torch.stack([torch.zeros(4, dtype=torch.float64), alpha * mean])  # means of both starts
        ended = walk(("heun", {}), exact, starts.reshape(2, 1, 1, 4), grid)[-1].noisy.reshape(2, 4)
        growth = deviation / torch.hypot(alpha * deviation, sigma)
        torch.testing.assert_close(ended[0], mean * (1 - alpha * growth), rtol=0, atol=2e-3)
        torch.testing.assert_close(ended[1], mean, rtol=0, atol=2e-3)
        found[rule] = ended[0]
    assert (found["published"] - mean).abs().max() > 0.4
    torch.testing.assert_close(found["rescaled"], mean, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", CHAINS)
def test_lengths_walk_the_same_curve(name: str) -> None:
    """A chain of 250 is every fourth point of the chain of 1000."""
    torch.testing.assert_close(chain(name, 250).table[:-1], chain(name, 1000).table[:-1:4], rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", CHAINS)
def test_long_chains_approach_the_continuous_form(name: str) -> None:
    """The integral of the published betas, which the sum over 1000 steps approximates to 1/T."""
    t = torch.linspace(0.05, 0.95, 50, dtype=torch.float64)
    discrete, continuous = chain(name, 1000), build_noise_schedule(name)
    torch.testing.assert_close(discrete.alpha(t), continuous.alpha(t), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("steps", [1, 2, 50, 1000, None])
def test_zero_terminal_snr(name: str, steps: int | None) -> None:
    """Lin et al. 2024, algorithm 1: nothing of the image is left at t = 1, and the first step is as before."""
    rescaled, plain = build_noise_schedule(name, steps, True), build_noise_schedule(name, steps)
    for one in (torch.ones(()), torch.ones(17)):
        assert (rescaled.alpha(one) == 0).all()
        assert (rescaled.sigma(one) == 1).all()
    if steps is not None and steps > 1:
        first = torch.tensor(1 / steps, dtype=torch.float64)
        torch.testing.assert_close(rescaled.alpha(first), plain.alpha(first))


def test_zero_terminal_snr_by_hand() -> None:
    table = chain("linear", 4).table[1:].tolist()
    expected = [(a - table[3]) * table[0] / (table[0] - table[3]) for a in table]
    np.testing.assert_allclose(chain("linear", 4, True).table[1:].numpy(), expected, rtol=1e-12, atol=1e-15)


@given(steps=st.integers(1, 3000), place=st.floats(0, 1), name=st.sampled_from(CHAINS))
def test_chains_pass_through_their_table(steps: int, place: float, name: str) -> None:
    made = chain(name, steps)
    index = round(place * steps)
    at = made.alpha(torch.tensor(index / steps, dtype=torch.float64))
    torch.testing.assert_close(at, made.table[index], rtol=1e-9, atol=1e-13)


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"cosin.*choose from flow, cosine"):
        build_noise_schedule("cosin")
    with pytest.raises(UserError, match="timesteps 0: must be at least 1"):
        build_noise_schedule("linear", 0)
    with pytest.raises(UserError, match="flow schedule is continuous"):
        build_noise_schedule("flow", 10)
    with pytest.raises(UserError, match="'ho': choose from rescaled, published"):
        build_noise_schedule("linear", 10, chain_betas="ho")
    for name, steps in (("cosine", 10), ("flow", None), ("linear", None)):
        with pytest.raises(UserError, match=r"published: .* has no betas"):
            build_noise_schedule(name, steps, chain_betas="published")
    assert set(CHAINS) == {"cosine", "linear", "quadratic", "sigmoid"}


def test_device_and_precision_of_times_do_not_matter() -> None:
    schedule = chain("linear", 1000)
    k = torch.arange(1, 1001)
    single: Tensor = schedule.alpha((k / 1000).float())
    torch.testing.assert_close(single, schedule.table[1:], rtol=1e-6, atol=1e-8)
