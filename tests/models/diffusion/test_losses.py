"""Losses per image: each weighting against a table written by hand from its paper, each option against its effect."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.denoiser import NetworkDenoiser, add_noise
from models.diffusion.losses import DISTANCES, WEIGHTINGS, DenoisingLoss
from models.diffusion.noise_schedules import Chain, NoiseSchedule, build_noise_schedule
from models.diffusion.predictions import PREDICTIONS, build_prediction
from models.diffusion.times import BINS, TimeDensity, bin_of
from models.errors import UserError
from models.randomness import StepRandomness
from tests.exact import betas_of, levels

LINEAR = build_noise_schedule("linear", 1000)
COSINE = build_noise_schedule("cosine")
FLOW = build_noise_schedule("flow")
UNIFORM = TimeDensity("uniform")
NULL = 10


def loss_of(
    weighting: str = "uniform",
    limit: float | None = None,
    distance: str = "l2",
    label_drop: float = 0.0,
    density: TimeDensity = UNIFORM,
) -> DenoisingLoss:
    return DenoisingLoss(distance, weighting, limit, density, label_drop, NULL)


def weights(weighting: str, schedule: NoiseSchedule, prediction: str, t: Tensor, limit: float | None = None) -> list:
    weights = loss_of(weighting, limit).weights(schedule.level(t), schedule, build_prediction(prediction, 0.5))
    return weights.weight.tolist()


def at_snr(schedule: NoiseSchedule, *ratios: float) -> Tensor:
    """The times of these signal-to-noise ratios."""
    return schedule.t_from_log_snr(torch.tensor(ratios, dtype=torch.float64).log())


# -- weightings -------------------------------------------------------------------------------------------------


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


# -- the loss itself ----------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """Answers with a number, and keeps the labels it was shown."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        self.label = label
        return torch.full_like(noisy, self.value)


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    clean, noise = torch.randn(2, count, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    return clean, noise


def losses_and_times(
    loss: DenoisingLoss,
    denoiser: NetworkDenoiser,
    schedule: NoiseSchedule,
    clean: Tensor,
    label: Tensor | None,
    random: StepRandomness,
) -> tuple[Tensor, Tensor]:
    """Make the plan of a batch, and compute its losses."""
    plan = loss.plan(schedule, denoiser.prediction, random)
    return loss(denoiser, clean, label, plan, random), plan["t"]


def randomness(count: int, seed: int = 0, start: int = 0, stop: int | None = None) -> StepRandomness:
    return StepRandomness(seed, 0, count, start, count if stop is None else stop, torch.device("cpu"))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_one_number_per_image(distance: str, weighting: str) -> None:
    clean, noise = batch()
    denoiser = NetworkDenoiser(Constant(0.3), build_prediction("eps", 1.0))
    t = torch.linspace(0.1, 1, 6, dtype=torch.float64)
    loss = loss_of(weighting, distance=distance)
    level = LINEAR.level(t)
    weights = loss.weights(level, LINEAR, denoiser.prediction)
    together = loss.at(denoiser, clean, None, level, weights, noise)
    assert together.shape == (6,)
    assert together.dtype == torch.float32
    for index in range(6):
        one = slice(index, index + 1)
        alone = loss.at(denoiser, clean[one], None, level[one], weights[one], noise[one])
        torch.testing.assert_close(alone, together[one])


def test_distances_by_hand() -> None:
    clean = torch.zeros(3, 1, 1, 2)
    noise = torch.tensor([0.0, 0.5, 3.0]).reshape(3, 1, 1, 1).expand(3, 1, 1, 2)
    denoiser = NetworkDenoiser(Constant(0.0), build_prediction("eps", 1.0))
    level = LINEAR.level(torch.full((3,), 0.5))
    for distance, expected in (("l1", [0, 0.5, 3]), ("l2", [0, 0.25, 9]), ("huber", [0, 0.125, 2.5])):
        loss = loss_of(distance=distance)
        found = loss.at(denoiser, clean, None, level, loss.weights(level, LINEAR, denoiser.prediction), noise)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("name", ["x0", "v", "flow", "edm"])
def test_the_right_answer_costs_nothing(name: str) -> None:
    clean, noise = batch()
    prediction = build_prediction(name, 0.5)

    class Oracle(nn.Module):
        def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            return prediction.target(clean, noise, *levels(FLOW, t.double(), clean))

    level, loss = FLOW.level(torch.full((6,), 0.5)), loss_of()
    weights = loss.weights(level, FLOW, prediction)
    losses = loss.at(NetworkDenoiser(Oracle(), prediction), clean, None, level, weights, noise)
    assert losses.max() < 1e-10


def test_the_network_sees_the_noised_image() -> None:
    clean, noise = batch()
    t = torch.linspace(0.1, 1, 6, dtype=torch.float64)

    class Looking(nn.Module):
        def forward(self, noisy: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
            torch.testing.assert_close(noisy, add_noise(clean, noise, LINEAR.level(t)))
            torch.testing.assert_close(time, t.float())
            return noisy

    denoiser, level = NetworkDenoiser(Looking(), build_prediction("v", 1.0)), LINEAR.level(t)
    weights = loss_of().weights(level, LINEAR, denoiser.prediction)
    loss_of().at(denoiser, clean, None, level, weights, noise)


def test_gradients_reach_the_network() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            return self.scale * noisy

    network = Scale()
    clean, _ = batch()
    losses, _ = losses_and_times(
        loss_of(), NetworkDenoiser(network, build_prediction("v", 1.0)), FLOW, clean, None, randomness(6)
    )
    losses.mean().backward()
    assert network.scale.grad is not None
    assert network.scale.grad.abs() > 0


def test_the_step_decides_everything_and_parts_add_up() -> None:
    clean, _ = batch()
    label = torch.arange(6)
    denoiser = NetworkDenoiser(Constant(0.1), build_prediction("flow", 1.0))
    loss = loss_of(label_drop=0.5)
    whole, times = losses_and_times(loss, denoiser, FLOW, clean, label, randomness(6))
    again, _ = losses_and_times(loss, denoiser, FLOW, clean, label, randomness(6))
    other, _ = losses_and_times(loss, denoiser, FLOW, clean, label, randomness(6, seed=1))
    assert whole.equal(again)
    assert not whole.equal(other)
    assert times.shape == (6,)
    parts = [
        losses_and_times(loss, denoiser, FLOW, clean[a:b], label[a:b], randomness(6, start=a, stop=b))
        for a, b in ((0, 2), (2, 6))
    ]
    torch.testing.assert_close(torch.cat([losses for losses, _ in parts]), whole)
    assert torch.cat([t for _, t in parts]).equal(times)


def test_labels_are_dropped_image_by_image() -> None:
    """Each with its own coin: of 2,000 images about a fifth, and hardly ever all or none of a batch of eight."""
    clean = torch.zeros(2000, 1, 1, 1)
    label = torch.arange(2000) % NULL
    network = Constant(0.0)
    denoiser = NetworkDenoiser(network, build_prediction("flow", 1.0))
    losses_and_times(loss_of(label_drop=0.2), denoiser, FLOW, clean, label, randomness(2000))
    assert network.label is not None
    dropped = network.label == NULL
    assert network.label[~dropped].equal(label[~dropped])
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.03)
    share = dropped.reshape(-1, 8).float().mean(1)
    assert (share == 1).sum() == 0
    assert ((share > 0) & (share < 1)).float().mean().item() == pytest.approx(1 - 0.8**8, abs=0.07)
    assert label.max() < NULL


def test_labels_are_dropped_at_all_times_alike() -> None:
    """With stratified times, one stream for both would drop the labels of the same part of time in every batch."""
    clean, label = torch.zeros(4000, 1, 1, 1), torch.zeros(4000, dtype=torch.long)
    network = Constant(0.0)
    denoiser = NetworkDenoiser(network, build_prediction("flow", 1.0))
    _, t = losses_and_times(loss_of(label_drop=0.5), denoiser, FLOW, clean, label, randomness(4000))
    assert network.label is not None
    dropped = (network.label == NULL).double()
    within = (t * 4000).frac()
    for times in (t, within):
        assert torch.corrcoef(torch.stack([dropped, times]))[0, 1].abs() < 0.05


@pytest.mark.parametrize(("drop", "kept"), [(0.0, True), (1.0, False)])
def test_no_label_or_every_label_dropped(drop: float, kept: bool) -> None:
    clean, _ = batch()
    network = Constant(0.0)
    denoiser = NetworkDenoiser(network, build_prediction("flow", 1.0))
    losses_and_times(loss_of(label_drop=drop), denoiser, FLOW, clean, torch.zeros(6, dtype=torch.long), randomness(6))
    assert network.label is not None
    assert network.label.tolist() == [0 if kept else NULL] * 6
    losses_and_times(loss_of(label_drop=drop), denoiser, FLOW, clean, None, randomness(6))
    assert network.label is None


def test_dropping_labels_does_not_touch_times_or_noise() -> None:
    clean, _ = batch()
    denoiser = NetworkDenoiser(Constant(0.2), build_prediction("flow", 1.0))
    label = torch.zeros(6, dtype=torch.long)
    with_drop, t = losses_and_times(loss_of(label_drop=0.5), denoiser, FLOW, clean, label, randomness(6))
    without, same_t = losses_and_times(loss_of(), denoiser, FLOW, clean, label, randomness(6))
    assert with_drop.equal(without)
    assert t.equal(same_t)


def test_bins_of_time() -> None:
    """Bin k holds (k/10, (k+1)/10], so that a chain of ten has one step in each."""
    assert bin_of(torch.arange(1, 11, dtype=torch.float64) / 10).tolist() == list(range(BINS))
    assert bin_of(torch.tensor([1e-5, 0.05, 0.1 + 1e-6, 0.999])).tolist() == [0, 0, 1, 9]


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"loss 'l3': choose from l2, l1, huber"):
        loss_of(distance="l3")
    with pytest.raises(UserError, match=r"weighting 'snr': choose from .*min_snr"):
        loss_of("snr")
    with pytest.raises(UserError, match=r"weight_limit -1\.0: must be more than 0"):
        loss_of("min_snr", -1.0)
    with pytest.raises(UserError, match=r"label_drop 1\.5: must be"):
        loss_of(label_drop=1.5)
    assert math.isclose(WEIGHTINGS["min_snr"][1], 5.0)
