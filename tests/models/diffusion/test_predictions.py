"""Predictions: exact in both directions, equal to their papers, and refused where they say nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.diffusion.noise_schedules import NoiseSchedule, build_noise_schedule
from models.diffusion.predictions import PREDICTIONS, Prediction, build_prediction
from models.errors import UserError
from tests.exact import levels

ALL = tuple(PREDICTIONS)
SCHEDULES = {
    "flow": build_noise_schedule("flow"),
    "cosine": build_noise_schedule("cosine"),
    "linear-chain": build_noise_schedule("linear", 1000),
    "zero-terminal-snr": build_noise_schedule("linear", 100, zero_terminal_snr=True),
}
DEVIATION = 0.37


def pair(seed: int, count: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, count, 1, 2, 3, dtype=torch.float64, generator=generator)
    return DEVIATION * clean, noise


@given(
    name=st.sampled_from(ALL),
    schedule=st.sampled_from(list(SCHEDULES.values())),
    times=st.lists(st.floats(1e-4, 1 - 1e-4), min_size=5, max_size=5),
)
def test_there_and_back(name: str, schedule: NoiseSchedule, times: list[float]) -> None:
    clean, noise = pair(0)
    prediction = build_prediction(name, DEVIATION)
    alpha, sigma = levels(schedule, torch.tensor(times, dtype=torch.float64), clean)
    noisy = alpha * clean + sigma * noise
    target = prediction.target(clean, noise, alpha, sigma)
    found_clean, found_noise = prediction.solve(target, noisy, alpha, sigma)
    torch.testing.assert_close(found_clean, clean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found_noise, noise, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_both_ends_of_time(name: str, schedule: NoiseSchedule) -> None:
    """Exact or refused at t = 1, and finite and exact in the clean half at t = 0."""
    clean, noise = pair(1)
    prediction = build_prediction(name, DEVIATION)
    alpha, sigma = levels(schedule, torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]), clean)
    noisy = alpha * clean + sigma * noise
    found_clean, found_noise = prediction.solve(prediction.target(clean, noise, alpha, sigma), noisy, alpha, sigma)
    torch.testing.assert_close(found_clean[1::2], clean[1::2])
    assert found_noise.isfinite().all()
    if name == "eps" and alpha[0] < 1e-8:
        with pytest.raises(UserError, match="prediction eps: the schedule ends in pure noise"):
            prediction.check(schedule.alpha(torch.ones(())).item())
        return
    prediction.check(schedule.alpha(torch.ones(())).item())
    torch.testing.assert_close(found_clean[::2], clean[::2], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found_noise[::2], noise[::2], rtol=1e-6, atol=1e-9)


def test_targets_by_hand() -> None:
    clean, noise = pair(2)
    alpha, sigma = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    expected = {"eps": noise, "x0": clean, "v": 0.8 * noise - 0.6 * clean, "flow": noise - clean}
    for name, target in expected.items():
        torch.testing.assert_close(build_prediction(name, DEVIATION).target(clean, noise, alpha, sigma), target)


def test_v_is_edm_of_unit_data() -> None:
    clean, noise = pair(3)
    alpha, sigma = levels(SCHEDULES["cosine"], torch.rand(5, generator=torch.Generator().manual_seed(3)), clean)
    v, edm = build_prediction("v", DEVIATION), build_prediction("edm", 1.0)
    torch.testing.assert_close(v.target(clean, noise, alpha, sigma), edm.target(clean, noise, alpha, sigma))


@given(ratio=st.floats(0.002, 80), deviation=st.floats(0.05, 3), alpha=st.floats(0.05, 1))
def test_edm_is_the_papers_preconditioning(ratio: float, deviation: float, alpha: float) -> None:
    """Karras et al. 2022, table 1: D(x; s) = c_skip x + c_out F(c_in x), where x = clean + s noise.

    Here noisy = alpha x, s = sigma / alpha, and F is asked for with the opposite sign.
    """
    c_skip = deviation**2 / (ratio**2 + deviation**2)
    c_out = ratio * deviation / (ratio**2 + deviation**2) ** 0.5
    c_in = 1 / (ratio**2 + deviation**2) ** 0.5
    prediction = build_prediction("edm", deviation)
    a, s = torch.tensor(alpha, dtype=torch.float64), torch.tensor(alpha * ratio, dtype=torch.float64)
    x, output = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clean, _ = prediction.solve(-output, alpha * x, a, s)
    torch.testing.assert_close(clean, c_skip * x + c_out * output, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prediction.input_scale(a, s) * alpha * x, c_in * x)


@pytest.mark.parametrize("schedule", [SCHEDULES["flow"], SCHEDULES["cosine"]], ids=["flow", "cosine"])
def test_edm_keeps_unit_variance(schedule: NoiseSchedule) -> None:
    """Of the network's input and of its target, at every time, for data of the measured deviation."""
    generator = torch.Generator().manual_seed(4)
    clean, noise = torch.randn(2, 200_000, dtype=torch.float64, generator=generator)
    clean *= DEVIATION
    prediction = build_prediction("edm", DEVIATION)
    for t in torch.tensor([0.001, 0.1, 0.5, 0.9, 0.999], dtype=torch.float64):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        target = prediction.target(clean, noise, alpha, sigma)
        scaled = prediction.input_scale(alpha, sigma) * (alpha * clean + sigma * noise)
        assert target.var().item() == pytest.approx(1, abs=0.02)
        assert scaled.var().item() == pytest.approx(1, abs=0.02)


@given(name=st.sampled_from(ALL), t=st.floats(0.01, 0.99))
def test_an_output_error_shows_as_stated(name: str, t: float) -> None:
    clean, noise = pair(5)
    prediction = build_prediction(name, DEVIATION)
    alpha, sigma = (curve(torch.tensor(t)) for curve in (SCHEDULES["flow"].alpha, SCHEDULES["flow"].sigma))
    noisy, target = alpha * clean + sigma * noise, prediction.target(clean, noise, alpha, sigma)
    moved_clean, moved_noise = prediction.solve(target + 1, noisy, alpha, sigma)
    expected = prediction.clean_error(alpha, sigma), prediction.noise_error(alpha, sigma)
    torch.testing.assert_close((moved_clean - clean).abs(), expected[0].expand_as(clean), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close((moved_noise - noise).abs(), expected[1].expand_as(clean), rtol=1e-8, atol=1e-10)


def test_only_edm_scales_its_input() -> None:
    alpha = sigma = torch.tensor(0.5, dtype=torch.float64)
    for name in ALL:
        scale = build_prediction(name, DEVIATION).input_scale(alpha, sigma).item()
        assert (scale == 1) == (name != "edm")


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"velocity.*choose from eps, x0, v, flow, edm"):
        build_prediction("velocity", 1.0)
    with pytest.raises(UserError, match="prediction edm: it divides by the deviation"):
        build_prediction("edm", 0.0)
    assert isinstance(build_prediction("v", 0.0), Prediction)
