"""Weightings of the loss, each against a table written by hand from its paper."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.denoiser import NetworkDenoiser
from models.diffusion.losses import DISTANCES, WEIGHTINGS
from models.diffusion.noise_schedules import Chain, NoiseSchedule, build_noise_schedule
from models.diffusion.predictions import PREDICTIONS, build_prediction
from tests.exact import betas_of, levels
from tests.models.diffusion.loss_cases import COSINE, FLOW, LINEAR, loss_of


def weights(weighting: str, schedule: NoiseSchedule, prediction: str, t: Tensor, limit: float | None = None) -> list:
    weights = loss_of(weighting, limit).weights(schedule.level(t), schedule, build_prediction(prediction, 0.5))
    return weights.weight.tolist()


def at_snr(schedule: NoiseSchedule, *ratios: float) -> Tensor:
    """The times of these signal-to-noise ratios."""
    return schedule.t_from_log_snr(torch.tensor(ratios, dtype=torch.float64).log())


# SNR, then the weight of the eps, x0 and v loss with gamma = 5 (Hang et al. 2023, section 3.3 and eq. 8-10):
# min(SNR, gamma) / SNR for eps, min(SNR, gamma) for x0, min(SNR, gamma) / (SNR + 1) for v.
MIN_SNR = [
    (0.01, 1.0, 0.01, 0.01 / 1.01),
    (0.25, 1.0, 0.25, 0.2),
    (1.0, 1.0, 1.0, 0.5),
    (4.0, 1.0, 4.0, 0.8),
    (5.0, 1.0, 5.0, 5 / 6),
    (10.0, 0.5, 5.0, 5 / 11),
    (100.0, 0.05, 5.0, 5 / 101),
]


@pytest.mark.parametrize(("snr", "eps", "x0", "v"), MIN_SNR)
@pytest.mark.parametrize("schedule", [COSINE, build_noise_schedule("linear")], ids=["cosine", "linear"])
def test_min_snr(schedule: NoiseSchedule, snr: float, eps: float, x0: float, v: float) -> None:
    t = at_snr(schedule, snr)
    for name, expected in (("eps", eps), ("x0", x0), ("v", v)):
        assert weights("min_snr", schedule, name, t) == pytest.approx([expected], rel=1e-6)


# gamma = 4 (Crowson et al. 2024, section 4.3: 1 / (sigma^2 + 1/gamma) on the clean error, sigma^2 = 1 / SNR).
SOFT_MIN_SNR = [
    (0.01, 1 / (100 + 0.25)),
    (0.25, 1 / (4 + 0.25)),
    (1.0, 0.8),
    (4.0, 2.0),
    (100.0, 1 / (0.01 + 0.25)),
]


@pytest.mark.parametrize(("snr", "x0"), SOFT_MIN_SNR)
def test_soft_min_snr(snr: float, x0: float) -> None:
    t = at_snr(COSINE, snr)
    for name, factor in (("x0", 1.0), ("eps", 1 / snr), ("v", 1 / (1 + snr))):
        assert weights("soft_min_snr", COSINE, name, t) == pytest.approx([x0 * factor], rel=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_variational_weight_is_ddpms(name: str) -> None:
    """Ho et al. 2020, eq. 12: beta^2 / (2 sigma^2 alpha (1 - alpha-bar)) on eps, with sigma^2 = beta-tilde."""
    chain = build_noise_schedule(name, 100)
    assert isinstance(chain, Chain)
    betas = betas_of(chain)
    alphas = 1 - betas
    bars = alphas.cumprod(0)
    tilde = (1 - bars[:-1]) / (1 - bars[1:]) * betas[1:]
    expected = betas[1:] ** 2 / (2 * tilde * alphas[1:] * (1 - bars[1:]))
    t = torch.arange(2, 101, dtype=torch.float64) / 100
    assert weights("variational", chain, "eps", t, limit=1e9) == pytest.approx(expected.tolist(), rel=1e-6)
    first = torch.tensor([0.01], dtype=torch.float64)
    assert weights("variational", chain, "eps", first, limit=3.0) == [3.0]


def test_variational_weight_is_clipped() -> None:
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    free, clipped = (torch.tensor(weights("variational", LINEAR, "eps", t, limit)) for limit in (1e9, 0.02))
    assert clipped.max() == 0.02
    assert (clipped < 0.02).any()
    assert clipped.equal(free.clamp(max=0.02))
    assert max(weights("variational", LINEAR, "eps", t)) == WEIGHTINGS["variational"][1] == 1.0


def test_variational_weight_of_other_predictions() -> None:
    """The same bound: the weight of x0 and v is that of eps times the square of what their error does to eps."""
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    eps = torch.tensor(weights("variational", LINEAR, "eps", t, 1e9))
    alpha, sigma = LINEAR.alpha(t), LINEAR.sigma(t)
    for name, factor in (("x0", alpha / sigma), ("v", alpha)):
        found = torch.tensor(weights("variational", LINEAR, name, t, 1e9))
        torch.testing.assert_close(found, (eps * factor**2).to(found), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("weighting", [name for name in WEIGHTINGS if name != "uniform"])
@pytest.mark.parametrize("schedule", [FLOW, COSINE, LINEAR], ids=["flow", "cosine", "linear"])
def test_a_weighting_means_the_same_for_every_prediction(weighting: str, schedule: NoiseSchedule) -> None:
    """The weighted l2 of one and the same estimate does not depend on what the network was asked for."""
    t = torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    clean, noise, wrong = torch.randn(3, 4, 1, 2, 2, dtype=torch.float64, generator=generator)
    alpha, sigma = levels(schedule, t, clean)
    wrong_noise = (alpha * clean + sigma * noise - alpha * wrong) / sigma
    losses = []
    for name in PREDICTIONS:
        prediction = build_prediction(name, 0.5)
        output = prediction.target(wrong, wrong_noise, alpha, sigma)
        errors = (output - prediction.target(clean, noise, alpha, sigma)).square().flatten(1).mean(1)
        losses.append(errors * loss_of(weighting).weights(schedule.level(t), schedule, prediction).weight)
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-7, atol=1e-12)


class Answer(nn.Module):
    """Network that gives one and the same estimate, in the terms of its prediction."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        return self.output


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("weighting", [name for name in WEIGHTINGS if name != "uniform"])
@pytest.mark.parametrize("schedule", [FLOW, COSINE, LINEAR], ids=["flow", "cosine", "linear"])
def test_the_same_estimate_has_the_same_loss_with_every_prediction(
    distance: str, weighting: str, schedule: NoiseSchedule
) -> None:
    """Also for l1, whose weight takes the factor itself, and for Huber's distance, which has no factor at all."""
    level = schedule.level(torch.tensor([0.05, 0.3, 0.6, 0.95]))
    generator = torch.Generator().manual_seed(0)
    clean, noise, wrong = 2 * torch.randn(3, 4, 1, 2, 2, dtype=torch.float64, generator=generator)
    alpha, sigma = level.coefficients(clean)
    wrong_noise = (alpha * clean + sigma * noise - alpha * wrong) / sigma
    losses = []
    for name in PREDICTIONS:
        prediction = build_prediction(name, 0.5)
        denoiser = NetworkDenoiser(Answer(prediction.target(wrong, wrong_noise, alpha, sigma)), prediction)
        loss = loss_of(weighting, distance=distance)
        losses.append(loss.at(denoiser, clean, None, level, loss.weights(level, schedule, prediction), noise))
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-6, atol=1e-12)
    if weighting != "variational":  # x0's own error is the clean error, so these weights are the weighting itself
        plain = DISTANCES[distance].function(wrong, clean).flatten(1).mean(1)
        weigh = loss_of(weighting).weights(level, schedule, build_prediction("x0", 1.0)).weight
        torch.testing.assert_close(losses[0], weigh * plain, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", PREDICTIONS)
def test_weights_are_finite_and_not_negative_everywhere(weighting: str, name: str) -> None:
    schedules = {
        "flow": FLOW,
        "cosine": COSINE,
        "one step": build_noise_schedule("linear", 1),
        "zero": build_noise_schedule("linear", 1000, zero_terminal_snr=True),
        "zero, continuous": build_noise_schedule("cosine", None, zero_terminal_snr=True),
        "one step of zero": build_noise_schedule("cosine", 1, zero_terminal_snr=True),
    }
    t = torch.cat([torch.tensor([1e-5, 1e-3, 1.0], dtype=torch.float64), torch.linspace(0.01, 1, 100).double()])
    for schedule in schedules.values():
        if name == "eps" and schedule.alpha(torch.ones(())) < 1e-8:
            continue
        found = torch.tensor(weights(weighting, schedule, name, t))
        assert found.isfinite().all()
        assert (found >= 0).all()


def test_zero_terminal_snr_of_v_is_no_zero_over_zero() -> None:
    schedule = build_noise_schedule("linear", 1000, zero_terminal_snr=True)
    one = torch.ones(1, dtype=torch.float64)
    assert weights("min_snr", schedule, "v", one) == [0.0]
    assert weights("uniform", schedule, "v", one) == [1.0]
