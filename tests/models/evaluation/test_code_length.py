"""Bounds on the code length of images against data whose probabilities are known."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
from torch import Tensor

from models.diffusion.denoiser import Estimate, clipped
from models.diffusion.noise_schedules import Chain, NoiseLevel, build_noise_schedule
from models.diffusion.samplers import ddpm
from models.diffusion.times import Grid
from models.errors import UserError
from models.evaluation.code_length import (
    GreyLevels,
    Parts,
    SpreadDensity,
    VariationalBound,
    bits_per_dimension,
    decoder_deviation,
    discretised_gaussian,
    groups,
)
from models.evaluation.images import Images
from models.spaces.pixels import Pixels
from tests.exact import ExactGaussian, betas_of, pixel_gaussian
from tests.models.evaluation.densities import Classes

LEVELS = GreyLevels(-1.0, 1.0)
EVERY = torch.arange(256)
MEAN, DEVIATION = (-0.1, 0.2, 0.0), (0.15, 0.25, 0.1)


def chain(steps: int, name: str = "cosine") -> Chain:
    schedule = build_noise_schedule(name, steps)
    assert isinstance(schedule, Chain)
    return schedule


def total(parts: Parts) -> Tensor:
    return torch.stack(list(parts.values())).sum(0)


def grey_images(exact: ExactGaussian, count: int) -> Images:
    """Draws of the Gaussian, each number rounded to its grey level."""
    drawn = exact.draw_noisy(exact.noise_schedule.level(torch.zeros(())), count, torch.Generator().manual_seed(0))
    space = Pixels((1, 1, drawn.shape[-1]), 1.0)
    return Images(space.encode(space.decode(drawn)), range(count), seed=0)


def true_nats(images: Images) -> Tensor:
    """(N,) -log p of rounded draws: the Gaussian's mass on each level."""
    clean = images.clean.double()
    mean, deviation = (torch.tensor(each, dtype=torch.float64) for each in (MEAN, DEVIATION))
    upper, lower = ((clean + side / 255 - mean) / deviation for side in (1, -1))
    return -(torch.special.ndtr(upper) - torch.special.ndtr(lower)).log().flatten(1).sum(1)


# -- the decoder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.31, 0.0, 0.9, 1.02, 40.0])
@pytest.mark.parametrize("deviation", [1e-4, 0.004, 0.3, 5.0])
def test_the_256_levels_sum_to_one(mean: float, deviation: float) -> None:
    clean = Pixels.scale(EVERY)
    found = discretised_gaussian(clean, torch.tensor(mean), deviation, LEVELS)
    assert found.dtype == torch.float64 and not found.isnan().any()
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_a_level_holds_the_mass_of_its_interval_and_the_outer_ones_the_tails() -> None:
    found = discretised_gaussian(Pixels.scale(EVERY), torch.tensor(0.1), 0.5, LEVELS).exp()
    edges = torch.special.ndtr(((2 * EVERY + 1) / 255 - 1 - 0.1).double() / 0.5)
    assert torch.allclose(found[1:255], edges[1:255] - edges[:254], atol=1e-7)
    assert found[0].item() == pytest.approx(edges[0].item(), rel=1e-6)
    assert found[255].item() == pytest.approx(1 - edges[254].item(), rel=1e-6)


def test_far_tails_keep_their_logarithm() -> None:
    """Mills' ratio: the mass of an interval far out is about density / distance at its near edge."""
    near = 1 - 1 / 255
    found = discretised_gaussian(torch.ones(1), torch.tensor(-1.0), 0.01, LEVELS).item()
    z = (near + 1) / 0.01
    assert found == pytest.approx(-(z**2) / 2 - math.log(z * math.sqrt(2 * math.pi)), abs=1e-3)
    assert discretised_gaussian(-torch.ones(1), torch.tensor(1.0), 0.01, LEVELS).item() == pytest.approx(found)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_last_draw_has_the_fresh_noise_of_the_second_step(name: str) -> None:
    """What `ddpm` adds on the way from 2/T to 1/T."""
    schedule = chain(100, name)
    exact = pixel_gaussian(schedule, [0.0], [1.0])
    grid = Grid.of(schedule, torch.tensor([2, 1], dtype=torch.float64) / 100)
    noisy = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    quiet, loud = (next(ddpm(exact, noisy, grid, lambda shape, x=x: torch.full(shape, x))).noisy for x in (0.0, 1.0))
    assert decoder_deviation(schedule) == pytest.approx((loud - quiet).item(), rel=1e-6)
    beta = betas_of(schedule)[1] * (1 - schedule.table[1] ** 2) / (1 - schedule.table[2] ** 2)
    assert decoder_deviation(schedule) == pytest.approx(beta.sqrt().item(), rel=1e-9)


# -- the variational bound --------------------------------------------------------------------------------------


class FewLevels:
    """The exact denoiser of independent pixels that take a few grey levels with known probabilities."""

    NUMBERS = torch.tensor([0, 30, 128, 255])
    PROBABILITIES = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)

    def __init__(self, noise_schedule: Chain):
        self.noise_schedule = noise_schedule
        self.clean = Pixels.scale(self.NUMBERS).double()

    def __call__(self, noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        alpha, sigma = level.coefficients(noisy.double())
        distance = (noisy.double()[..., None] - alpha[..., None] * self.clean) / sigma[..., None]
        clean = (self.PROBABILITIES.log() - distance**2 / 2).softmax(-1) @ self.clean
        return Estimate(clean.to(noisy), ((noisy - alpha * clean) / sigma).to(noisy))

    def draw(self, count: int, pixels: int) -> tuple[Images, Tensor]:
        """Images and their -log p."""
        generator = torch.Generator().manual_seed(0)
        chosen = torch.multinomial(self.PROBABILITIES, count * pixels, replacement=True, generator=generator)
        nats = -self.PROBABILITIES.log()[chosen].reshape(count, pixels).sum(1)
        return Images(self.clean[chosen].reshape(count, 1, 1, pixels), range(count), seed=0), nats


def test_the_bound_approaches_the_entropy_from_above() -> None:
    """The last step leaves less noise than a level's width only where chains are long, so these are very long."""
    gaps = []
    for steps in (20, 200, 2000, 20000):
        exact = FewLevels(chain(steps, "linear"))
        images, nats = exact.draw(50, 30)
        parts = VariationalBound(200).nats(exact, exact.noise_schedule, images, None, LEVELS)
        assert set(parts) == {"prior", "steps", "decoder"} and all(x.dtype == torch.float64 for x in parts.values())
        gaps.append((total(parts) - nats).mean().item() / 30)
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 1
    assert 0 < gaps[-1] < 0.03


@pytest.mark.parametrize("steps", [5, 60])
def test_the_bound_of_a_gaussian_is_above_its_entropy_by_what_it_should(steps: int) -> None:
    schedule = chain(steps)
    exact = pixel_gaussian(schedule, MEAN, DEVIATION)
    images = grey_images(exact, 2000)
    parts = VariationalBound(0).nats(exact, exact.noise_schedule, images, None, LEVELS)
    assert (total(parts) - true_nats(images)).mean() > 1
    bars, variances = schedule.table[1:, None] ** 2, exact.variances
    unknown = variances * (1 - bars) / (bars * variances + 1 - bars)  # of the clean image, given the noisy one
    snr = bars / (1 - bars)
    assert parts["steps"].mean().item() == pytest.approx(
        float(((snr[:-1] - snr[1:]) / 2 * unknown[1:]).sum()), rel=0.05
    )


def test_every_term_is_the_divergence_of_two_gaussians() -> None:
    """Two steps, so that the bound has one KL, written out with the means of the posteriors (Ho et al. 2020 eq. 7)."""
    schedule = chain(2, "linear")
    exact = pixel_gaussian(schedule, MEAN, DEVIATION)
    images = grey_images(exact, 5)
    parts = VariationalBound(0).nats(exact, exact.noise_schedule, images, None, LEVELS)
    bars, (_, beta) = schedule.table[1:] ** 2, betas_of(schedule)
    clean, end = images.clean.double(), torch.ones((), dtype=torch.float64)
    noisy = bars[1].sqrt() * clean + (1 - bars[1]).sqrt() * next(islice(images.noises(), 1, None))
    variance = (1 - bars[0]) / (1 - bars[1]) * beta
    distance = bars[0].sqrt() * beta / (1 - bars[1]) * (clean - exact(noisy, schedule.level(end)).clean)
    kl = (distance**2 / (2 * variance)).flatten(1).sum(1)
    assert torch.allclose(parts["steps"], kl, rtol=1e-5)
    prior = (bars[1] * clean**2 - bars[1] - (1 - bars[1]).log()) / 2
    assert torch.allclose(parts["prior"], prior.flatten(1).sum(1), rtol=1e-9)


def test_groups_cut_every_step_once() -> None:
    for count, wanted in ((999, 99), (999, 1), (999, 999), (49, 7), (1, 1)):
        sizes = groups(count, wanted).diff()
        assert len(sizes) == wanted and sizes.sum() == count and sizes.min() >= 1
    assert torch.equal(groups(999, 999), torch.arange(1000))
    assert groups(999, 99).diff()[:5].tolist() == [1] * 5


def test_a_part_of_the_steps_has_the_mean_of_all() -> None:
    exact = pixel_gaussian(chain(100), MEAN, DEVIATION)
    images = grey_images(exact, 1000)
    whole, some = (VariationalBound(steps).nats(exact, exact.noise_schedule, images, None, LEVELS) for steps in (0, 12))
    assert torch.equal(some["prior"], whole["prior"]) and torch.equal(some["decoder"], whole["decoder"])
    difference = some["steps"] - whole["steps"]
    assert abs(difference.mean()) < 3 * difference.std() / math.sqrt(1000) < 0.03 * whole["steps"].mean()
    assert VariationalBound(12).evaluations(exact.noise_schedule) == 12
    assert VariationalBound(0).evaluations(exact.noise_schedule) == 100
    assert VariationalBound(101).evaluations(exact.noise_schedule) == 100
    exact.calls = 0
    VariationalBound(12).nats(exact, exact.noise_schedule, images, None, LEVELS)
    assert exact.calls == 12


def test_clipping_only_shortens_the_code() -> None:
    exact = pixel_gaussian(chain(50), (0.0, 0.0), (1.0, 1.0))
    images = grey_images(exact, 200)  # wider than the levels, so that estimates lie beyond
    plain, cut = (
        VariationalBound(0).nats(denoiser, exact.noise_schedule, images, None, LEVELS)
        for denoiser in (exact, clipped(exact, -1.0, 1.0))
    )
    assert torch.all(cut["steps"] <= plain["steps"] + 1e-6) and cut["steps"].sum() < plain["steps"].sum()


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_both_ends_of_a_long_chain_are_finite(zero_terminal_snr: bool) -> None:
    exact = pixel_gaussian(build_noise_schedule("linear", 1000, zero_terminal_snr), MEAN, DEVIATION)
    parts = VariationalBound(0).nats(exact, exact.noise_schedule, grey_images(exact, 3), None, LEVELS)
    assert total(parts).isfinite().all()
    assert (parts["prior"] == 0).all() if zero_terminal_snr else (parts["prior"] > 0).all()


# -- the density of images spread over their levels ------------------------------------------------------------


@pytest.mark.parametrize("first", [0.0, 0.0023])
@pytest.mark.parametrize("name", ["flow", "cosine"])
def test_the_density_of_spread_images_is_the_closed_form(name: str, first: float) -> None:
    schedule = build_noise_schedule(name)
    exact = pixel_gaussian(schedule, MEAN, DEVIATION)
    images = grey_images(exact, 400)
    found = total(SpreadDensity(60, first, probes=0).nats(exact, exact.noise_schedule, images, None, LEVELS))
    spread = images.clean.double() + 2 / 255 * (images.uniforms("levels", 1, 1, 3) - 0.5)
    mean, deviation = (torch.tensor(each, dtype=torch.float64) for each in (MEAN, DEVIATION))
    # The model's images hold a little noise beside the data's own deviation.
    wide = (deviation**2 + (first / (1 - first)) ** 2).sqrt()
    density = torch.distributions.Normal(mean, wide).log_prob(spread).flatten(1).sum(1)
    assert torch.allclose(found, -density - 3 * math.log(2 / 255), atol=5e-3)
    # Levels are narrow beside the data, so that little is lost to Jensen's inequality.
    assert found.mean().item() == pytest.approx(true_nats(images).mean().item(), abs=0.02)


def test_uniform_levels_take_eight_bits() -> None:
    """256 intervals of the width 2/255 fill [-1 - 1/255, 1 + 1/255]: a uniform density there is 256 equal levels."""
    density = torch.tensor([-5 * math.log(2 + 2 / 255)])
    assert bits_per_dimension(-(density + 5 * math.log(LEVELS.width)), 5).item() == pytest.approx(8)
    assert Pixels.scale(EVERY).diff().double().mean().item() == pytest.approx(LEVELS.width, rel=1e-6)


def test_images_are_spread_over_their_own_levels() -> None:
    images = Images(Pixels.scale(EVERY.repeat(4).reshape(4, 1, 16, 16)), range(4), seed=1)
    seen: list[Tensor] = []

    class Watched(ExactGaussian):
        def __call__(self, noisy: Tensor, level: NoiseLevel, label: Tensor | None = None):
            seen.append(noisy.detach())
            return super().__call__(noisy, level, label)

    schedule = build_noise_schedule("flow")
    exact = Watched(schedule, torch.zeros(1, 16, 16), torch.eye(256))
    SpreadDensity(1, 0.0, 1).nats(exact, exact.noise_schedule, images, None, LEVELS)
    offset = (seen[0] - images.clean) * 255 / 2
    assert offset.abs().max() <= 0.5 + 1e-4 and offset.std().item() == pytest.approx(math.sqrt(1 / 12), rel=0.05)
    assert torch.equal(Pixels((1, 16, 16), 1.0).decode(seen[0]).flatten(), EVERY.repeat(4).to(torch.uint8))


# -- both -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [VariationalBound(9), SpreadDensity(5, probes=2)])
def test_an_image_is_coded_alike_in_any_company(method: VariationalBound | SpreadDensity) -> None:
    classes = Classes(chain(30), (1, 2, 3), 3)
    clean, labels = classes.draw(8)
    images = Images(clean.float(), range(20, 28), seed=2)
    whole = method.nats(classes, classes.schedule, images, labels, LEVELS)
    rows = torch.tensor([6, 1])
    for name, each in method.nats(classes, classes.schedule, images[rows], labels[rows], LEVELS).items():
        assert torch.allclose(each, whole[name][rows], rtol=1e-4)
    other = method.nats(classes, classes.schedule, Images(clean.float(), range(20, 28), seed=3), labels, LEVELS)
    assert not torch.allclose(total(other), total(whole))
    mistaken = method.nats(classes, classes.schedule, images, (labels + 1) % 3, LEVELS)
    assert total(mistaken).mean() > total(whole).mean()


@pytest.mark.parametrize(
    ("steps", "schedule", "noise", "words"),
    [
        (0, build_noise_schedule("flow"), "gaussian", "continuous"),
        (0, build_noise_schedule("linear", 1), "gaussian", "at least 2 steps"),
        (0, chain(9), "uniform", "uniform noise"),
        (1, chain(9), "gaussian", "vlb_steps 1"),
        (-2, chain(9), "gaussian", "vlb_steps -2"),
    ],
)
def test_what_has_no_bound_is_refused(steps: int, schedule, noise: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        VariationalBound(steps).check(schedule, (1, 8, 8), noise)
