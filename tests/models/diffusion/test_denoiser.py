"""One denoiser serves losses and samplers: what it gives the network, and what it makes of the answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.denoiser import (
    NetworkDenoiser,
    add_noise,
    clipped,
    counted,
    estimate_from_clean,
    with_labels,
)
from models.diffusion.noise_schedules import build_noise_schedule
from models.diffusion.predictions import PREDICTIONS, build_prediction
from tests.exact import correlated_gaussian, through_network

LINEAR = build_noise_schedule("linear", 1000)
SHAPE = (2, 3, 4)


class Recorder(nn.Module):
    """Keeps what it was called with and answers with half of it."""

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        self.seen = noisy, t, label
        return noisy / 2


def images(count: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, *SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(0))


def test_levels_broadcast_and_follow_the_images() -> None:
    scalar = LINEAR.level(torch.tensor(0.5, dtype=torch.float64)).coefficients(images())
    several = LINEAR.level(torch.full((4,), 0.5, dtype=torch.float64)).coefficients(images())
    for one, many in zip(scalar, several, strict=True):
        assert one.dtype == many.dtype == torch.float32
        assert one.shape == (1, 1, 1, 1)
        assert many.shape == (4, 1, 1, 1)
        assert many.equal(one.expand(4, 1, 1, 1))


def test_adding_noise() -> None:
    clean, noise = images(), images().flip(0)
    t = torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=torch.float64)
    noisy = add_noise(clean, noise, LINEAR.level(t))
    assert noisy[0].equal(clean[0])
    for index, time in enumerate(t):
        expected = LINEAR.alpha(time).item() * clean[index] + LINEAR.sigma(time).item() * noise[index]
        torch.testing.assert_close(noisy[index], expected)


@pytest.mark.parametrize("t", [torch.tensor(0.4, dtype=torch.float64), torch.full((4,), 0.4)], ids=["scalar", "N"])
def test_what_the_network_sees(t: Tensor) -> None:
    network = Recorder()
    label = torch.arange(4)
    NetworkDenoiser(network, build_prediction("v", 1.0))(images(), LINEAR.level(t), label)
    noisy, time, seen = network.seen
    assert noisy.equal(images())
    assert time.shape == (4,)
    assert time.dtype == torch.float32
    torch.testing.assert_close(time, torch.full((4,), 0.4))
    assert seen is label


def test_autocast_stays_inside_the_network() -> None:
    class Linear(nn.Linear):
        def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:  # pyright: ignore
            out = super().forward(noisy)
            self.seen = out.dtype
            return out

    network = Linear(4, 4)
    denoiser = NetworkDenoiser(network, build_prediction("eps", 1.0), torch.bfloat16)
    estimate = denoiser(images(), LINEAR.level(torch.tensor(0.5)))
    assert network.seen == torch.bfloat16
    assert estimate.clean.dtype == estimate.noise.dtype == torch.float32


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_estimates_add_up_to_the_noisy_image(name: str, dtype: torch.dtype) -> None:
    """Whatever the network says, alpha * clean + sigma * noise is what it was shown, in the images' own precision."""
    denoiser = NetworkDenoiser(Recorder(), build_prediction(name, 0.5))
    for t in torch.linspace(0.05, 1, 11, dtype=torch.float64):
        estimate = denoiser(images(dtype=dtype), LINEAR.level(t))
        assert estimate.clean.dtype == dtype
        tolerance = 2e-5 if dtype == torch.float32 else 1e-12
        rebuilt = add_noise(estimate.clean, estimate.noise, LINEAR.level(t))
        torch.testing.assert_close(rebuilt, images(dtype=dtype), rtol=tolerance, atol=tolerance)


# eps is refused where nothing of the image is left at t = 1.
PAIRS = [
    (name, schedule) for name in PREDICTIONS for schedule in ("flow", "linear") if (name, schedule) != ("eps", "flow")
]


@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_the_ideal_network_gives_the_ideal_estimate(name: str, schedule: str) -> None:
    exact = correlated_gaussian(build_noise_schedule(schedule), SHAPE)
    denoiser = through_network(exact, build_prediction(name, 0.6))
    for t in (torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.tensor(1.0)):
        level = exact.noise_schedule.level(t)
        expected, found = exact(images(5, torch.float64), level), denoiser(images(5, torch.float64), level)
        torch.testing.assert_close(found.clean, expected.clean, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(found.noise, expected.noise, rtol=1e-7, atol=1e-7)


def test_estimate_from_clean() -> None:
    clean, noise, level = images(), images().flip(0), LINEAR.level(torch.tensor(0.3))
    found = estimate_from_clean(add_noise(clean, noise, level), level, clean)
    torch.testing.assert_close(found.noise, noise, rtol=1e-4, atol=1e-5)


def test_clipping_moves_the_rest_into_the_noise() -> None:
    denoiser = NetworkDenoiser(Recorder(), build_prediction("eps", 1.0))
    noisy, level = images(), LINEAR.level(torch.tensor(0.9))
    plain, cut = denoiser(noisy, level), clipped(denoiser, -1.0, 1.0)(noisy, level)
    assert plain.clean.abs().max() > 1
    assert cut.clean.equal(plain.clean.clamp(-1, 1))
    torch.testing.assert_close(add_noise(cut.clean, cut.noise, level), noisy, rtol=1e-5, atol=1e-5)
    inside = plain.clean.abs() <= 1
    torch.testing.assert_close(cut.noise[inside], plain.noise[inside], rtol=1e-4, atol=1e-5)


def test_labels_are_fixed_and_images_counted() -> None:
    network, level = Recorder(), LINEAR.level(torch.tensor(0.5))
    denoiser, counter = counted(NetworkDenoiser(network, build_prediction("v", 1.0)))
    with_labels(denoiser, torch.arange(4))(images(), level)
    label = network.seen[2]
    assert label is not None and label.tolist() == [0, 1, 2, 3] and counter.images == 4
    with_labels(denoiser, None)(images(), level)
    assert network.seen[2] is None and counter.images == 8


def test_levels_take_rows_together() -> None:
    levels = LINEAR.level(torch.tensor([0.1, 0.5, 0.9]))
    assert len(levels[1:]) == 2 and levels[2].t.shape == ()
    assert levels[[0, 2]].alpha.equal(levels.alpha[[0, 2]])
    torch.testing.assert_close(levels.half_log_snr, LINEAR.log_snr(levels.t) / 2)
    end = LINEAR.level(torch.tensor(0.0))
    assert end.half_log_snr == torch.inf and end.flow_time == 0 and end.unit_deviation == 1


def test_levels_computed_one_by_one_are_those_of_a_batch() -> None:
    """The values may differ in the last digit in float64; they are equal in float32."""
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    for name in ("flow", "cosine", "linear", "quadratic", "sigmoid"):
        schedule = build_noise_schedule(name)
        batch = schedule.level(t)
        for index, time in enumerate(t):
            one = schedule.level(time)
            assert one.alpha.float() == batch.alpha[index].float() and one.sigma.float() == batch.sigma[index].float()
