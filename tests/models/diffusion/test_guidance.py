"""Guidance: one scale convention, one forward pass, plain conditional where it is switched off."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.denoiser import Denoiser, Estimate, NetworkDenoiser, add_noise, with_labels
from models.diffusion.guidance import guided
from models.diffusion.noise_schedules import NoiseLevel, build_noise_schedule
from models.diffusion.predictions import build_prediction
from models.diffusion.samplers import SAMPLERS
from models.diffusion.times import build_grid

SCHEDULE = build_noise_schedule("linear", 1000)
CLASSES = 4
LEVEL = SCHEDULE.level_at(torch.tensor(0.6))


class ByLabel(nn.Module):
    """An answer that depends on the label, and a count of calls and images."""

    def __init__(self, strength: float = 1.0):
        super().__init__()
        self.strength, self.calls, self.images = strength, 0, 0

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        self.calls += 1
        self.images += len(noisy)
        known = torch.full((len(noisy),), CLASSES) if label is None else label
        return torch.tanh(noisy * self.strength + known.reshape(-1, 1, 1, 1).to(noisy) / 3)


def denoiser_of(network: nn.Module) -> NetworkDenoiser:
    return NetworkDenoiser(network, build_prediction("v", 1.0))


def noisy_batch() -> tuple[Tensor, Tensor]:
    noisy = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    return noisy, torch.tensor([0, 1, 2, 3, 0])


def halves(denoiser: Denoiser) -> tuple[Estimate, Estimate]:
    noisy, label = noisy_batch()
    return denoiser(noisy, LEVEL, label), denoiser(noisy, LEVEL, torch.full_like(label, CLASSES))


def test_scale_one_is_bitwise_the_conditional_denoiser() -> None:
    network = ByLabel()
    noisy, label = noisy_batch()
    found = guided(denoiser_of(network), 1.0, CLASSES)(noisy, LEVEL, label)
    assert network.calls == 1
    assert network.images == 5
    plain = denoiser_of(network)(noisy, LEVEL, label)
    assert found.clean.equal(plain.clean)
    assert found.noise.equal(plain.noise)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5, -1.0])
def test_the_scale_is_that_of_the_formula(scale: float) -> None:
    """u + s (c - u), for both halves of the estimate, in one forward pass."""
    network = ByLabel()
    noisy, label = noisy_batch()
    found = guided(denoiser_of(network), scale, CLASSES)(noisy, LEVEL, label)
    assert network.calls == 1
    conditional, unconditional = halves(denoiser_of(ByLabel()))
    for got, c, u in zip(found, conditional, unconditional, strict=True):
        torch.testing.assert_close(got, u + scale * (c - u), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(add_noise(found.clean, found.noise, LEVEL), noisy, rtol=1e-4, atol=1e-4)


def test_different_scales_give_different_images() -> None:
    noisy, label = noisy_batch()
    found = [
        guided(denoiser_of(ByLabel()), scale, CLASSES)(noisy, LEVEL, label).clean for scale in (0.0, 0.8, 1.0, 100.0)
    ]
    for index, one in enumerate(found):
        assert all(not one.allclose(other) for other in found[index + 1 :])


def test_without_labels_there_is_nothing_to_guide() -> None:
    network = ByLabel()
    noisy, _ = noisy_batch()
    found = guided(denoiser_of(network), 5.0, CLASSES)(noisy, LEVEL, None)
    assert network.images == 5
    assert found.clean.equal(denoiser_of(ByLabel())(noisy, LEVEL, None).clean)


@pytest.mark.parametrize(("interval", "acts"), [((0.2, 0.5), False), ((0.59, 0.61), True), ((0.7, 1.0), False)])
def test_only_inside_the_interval(interval: tuple[float, float], acts: bool) -> None:
    network = ByLabel()
    noisy, label = noisy_batch()
    found = guided(denoiser_of(network), 3.0, CLASSES, interval)(noisy, LEVEL, label)
    plain = denoiser_of(ByLabel())(noisy, LEVEL, label)
    assert network.images == (10 if acts else 5)
    assert found.clean.equal(plain.clean) != acts


def test_an_interval_saves_network_evaluations() -> None:
    network = ByLabel()
    noisy, label = noisy_batch()
    ready = with_labels(guided(denoiser_of(network), 3.0, CLASSES, (0.25, 0.75)), label)
    grid = build_grid("uniform", SCHEDULE, 10)
    list(SAMPLERS["ddim"].walk(ready, noisy, grid, torch.zeros))
    assert network.calls == 10
    inside = sum(0.25 <= time <= 0.75 for time in grid.levels.flow_time[:-1].tolist())
    assert 0 < inside < 10
    assert network.images == 5 * (10 + inside)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rescaling_restores_the_contrast(share: float) -> None:
    """Lin et al. 2024, eq. 15-16, image by image."""
    noisy, label = noisy_batch()
    found = guided(denoiser_of(ByLabel()), 6.0, CLASSES, rescale=share)(noisy, LEVEL, label)
    conditional, unconditional = halves(denoiser_of(ByLabel()))
    for index in range(5):
        c, u = conditional.clean[index], unconditional.clean[index]
        mixed = u + 6.0 * (c - u)
        expected = share * mixed * (c.std() / mixed.std()) + (1 - share) * mixed
        torch.testing.assert_close(found.clean[index], expected, rtol=1e-4, atol=1e-5)
        if share == 1:
            torch.testing.assert_close(found.clean[index].std(), c.std(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(add_noise(found.clean, found.noise, LEVEL), noisy, rtol=1e-4, atol=1e-4)


def test_autoguidance_moves_away_from_the_weaker_network() -> None:
    """Karras et al. 2024: the other half is another denoiser with the same labels."""
    strong, weak = ByLabel(1.0), ByLabel(0.3)
    noisy, label = noisy_batch()
    found = guided(denoiser_of(strong), 2.0, CLASSES, weak=denoiser_of(weak))(noisy, LEVEL, label)
    assert (strong.images, weak.images) == (5, 5)
    c, u = denoiser_of(ByLabel(1.0))(noisy, LEVEL, label), denoiser_of(ByLabel(0.3))(noisy, LEVEL, label)
    torch.testing.assert_close(found.clean, u.clean + 2 * (c.clean - u.clean))
    torch.testing.assert_close(found.noise, u.noise + 2 * (c.noise - u.noise))


def test_scale_zero_costs_one_evaluation_unless_rescale_needs_the_other() -> None:
    noisy, label = noisy_batch()
    network = ByLabel()
    found = guided(denoiser_of(network), 0.0, CLASSES)(noisy, LEVEL, label)
    assert network.images == 5
    assert found.clean.equal(denoiser_of(ByLabel())(noisy, LEVEL, torch.full_like(label, CLASSES)).clean)
    network = ByLabel()
    guided(denoiser_of(network), 0.0, CLASSES, rescale=0.5)(noisy, LEVEL, label)
    assert network.images == 10
    strong, weak = ByLabel(1.0), ByLabel(0.3)
    found = guided(denoiser_of(strong), 0.0, CLASSES, weak=denoiser_of(weak))(noisy, LEVEL, label)
    assert (strong.images, weak.images) == (0, 5)
    assert found.clean.equal(denoiser_of(ByLabel(0.3))(noisy, LEVEL, label).clean)


def test_guidance_does_what_it_promises_to_a_mixture() -> None:
    """Two classes at -1 and +1 with unit noise around: a larger scale lands further from the other class."""

    class TwoClasses:
        def __call__(self, noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
            assert label is not None
            alpha, sigma = float(level.alpha), float(level.sigma)
            means = torch.tensor([-1.0, 1.0])
            spread = alpha**2 * 0.09 + sigma**2
            logits = -((noisy.flatten()[:, None] - alpha * means) ** 2) / (2 * spread)
            known = torch.nn.functional.one_hot(label.clamp(max=1), 2).float()
            share = torch.where((label == 2)[:, None], logits.softmax(1), known)
            centre = (share * means).sum(1).reshape(-1, 1, 1, 1)
            single = means + alpha * 0.09 / spread * (noisy.flatten()[:, None] - alpha * means)
            clean = (share * single).sum(1).reshape(-1, 1, 1, 1)
            assert centre.shape == clean.shape
            return Estimate(clean, (noisy - alpha * clean) / sigma)

    noisy = torch.randn(256, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    label = torch.ones(256, dtype=torch.long)
    means = []
    for scale in (0.0, 1.0, 2.0):
        ready = with_labels(guided(TwoClasses(), scale, 2), label)
        *_, last = SAMPLERS["ddim"].walk(ready, noisy, build_grid("uniform", SCHEDULE, 40), torch.zeros)
        means.append(last.noisy.mean().item())
    assert abs(means[0]) < 0.2
    assert means[1] == pytest.approx(1.0, abs=0.1)
    assert means[2] > means[1]
