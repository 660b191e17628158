"""Latents as a space: standardised over the training split, there and back as its autoencoder does it, and bounded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import spaces
from models.autoencoders.autoencoder import Autoencoder
from models.diffusion.denoiser import NetworkDenoiser, clipped
from models.diffusion.noise_schedules import build_noise_schedule
from models.diffusion.predictions import build_prediction
from models.diffusion.samplers import SAMPLERS
from models.diffusion.times import build_grid
from models.errors import UserError
from models.model import locate_autoencoder
from models.randomness import StepRandomness
from models.spaces import Fitted, Identity, Surroundings
from models.spaces.latents import Latents
from models.spaces.pixels import Pixels
from tests.exact import ExactGaussian, pixel_gaussian, through_network
from tests.models.coders import random_images, small_coder

SHAPE, LATENT = (1, 8, 12), (2, 2, 3)
CPU = torch.device("cpu")


@pytest.fixture
def coder(tmp_path: Path) -> Autoencoder:
    return small_coder(tmp_path / "run", SHAPE, latent_shape=LATENT)


def fit(coder: Autoencoder, count: int = 200, flips: bool = False) -> Fitted:
    around = Surroundings("digits", partial(Identity, "d"), coder.path.parents[2])
    return Latents.fit(random_images(count, SHAPE), flips, around, autoencoder=str(coder.path))


@pytest.mark.parametrize("flips", [False, True])
def test_training_latents_have_mean_zero_and_deviation_one(coder: Autoencoder, flips: bool) -> None:
    fitted = fit(coder, flips=flips)
    prepared = fitted.prepared[:] if fitted.mirrored is None else torch.cat([fitted.prepared[:], fitted.mirrored])
    assert (fitted.mirrored is not None) == flips
    rounds = [
        fitted.space.draw(prepared, StepRandomness(0, step, len(prepared), 0, len(prepared), CPU)) for step in range(40)
    ]
    channels = torch.stack(rounds).transpose(0, 2).flatten(1)
    assert len(channels) == LATENT[0] and fitted.space.deviation == 1
    torch.testing.assert_close(channels.mean(1), torch.zeros(2), atol=0.02, rtol=0)
    torch.testing.assert_close(channels.std(1), torch.ones(2), atol=0.02, rtol=0)
    assert not rounds[0].equal(rounds[1])  # a fresh draw at every step


def test_without_a_posterior_the_means_themselves_are_standardised(tmp_path: Path) -> None:
    fitted = fit(small_coder(tmp_path / "run", SHAPE, "autoencoder", latent_shape=LATENT))
    latents = fitted.space.encode(random_images(200, SHAPE)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(1, correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_there_and_back_is_the_autoencoders_reconstruction(coder: Autoencoder) -> None:
    space, images = fit(coder).space, random_images(9, SHAPE, seed=5)
    clean = space.encode(images)
    assert clean.shape == (9, *LATENT) == (9, *space.shape) and space.image_shape == SHAPE
    with torch.no_grad():
        expected = Pixels(SHAPE, 1.0).decode(coder.decode(coder.encode(Pixels.scale(images))[0]))
    found = space.decode(clean)
    assert found.dtype == torch.uint8 and (found.int() - expected.int()).abs().max() <= 1
    assert found.float().std() > 5  # of images that differ


def test_it_comes_back_from_its_facts_by_the_autoencoders_hash(coder: Autoencoder, tmp_path: Path) -> None:
    space = fit(coder).space
    checkpoint = tmp_path / "latent" / "checkpoints" / "step_1.safetensors"
    again = spaces.from_facts(spaces.to_facts(space), lambda sha256: locate_autoencoder(sha256, checkpoint))
    images = random_images(3, SHAPE)
    assert again.encode(images).equal(space.encode(images)) and list(again.needs) == [coder.path]
    with pytest.raises(UserError, match=r"trained on an autoencoder .* name its checkpoint with autoencoder"):
        spaces.from_facts(
            {**spaces.to_facts(space), "autoencoder": "0" * 64}, lambda sha256: locate_autoencoder(sha256, checkpoint)
        )


def test_images_of_another_shape(coder: Autoencoder) -> None:
    with pytest.raises(UserError, match="is for 1x8x12 images, and digits has 1x8x8"):
        Latents.fit(random_images(4, (1, 8, 8)), False, Surroundings("digits"), autoencoder=str(coder.path))


@pytest.mark.parametrize("flips", [False, True])
def test_no_training_latent_lies_beyond_the_bounds(coder: Autoencoder, flips: bool) -> None:
    fitted = fit(coder, flips=flips)
    assert fitted.space.bounds is not None
    low, high = fitted.space.bounds
    images = random_images(200, SHAPE)
    latents = fitted.space.encode(torch.cat([images, images.flip(3)]) if flips else images)
    assert low == -high and latents.abs().max() <= high < 50


class Off(nn.Module):
    """A denoiser whose noise estimate is one percent too large, as a good network's may be."""

    def __init__(self, exact: ExactGaussian):
        super().__init__()
        self.exact = exact

    def forward(self, scaled: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        return 1.01 * self.exact(scaled, self.exact.noise_schedule.level(t)).noise


@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun", "dpmpp_2m", "unipc"])
def test_bounds_keep_the_error_of_a_network_from_growing(sampler: str) -> None:
    """At the end of a cosine chain an error in the noise is 20,000 times as large in the clean estimate."""
    schedule = build_noise_schedule("cosine", 1000)
    exact = pixel_gaussian(schedule, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    denoiser = NetworkDenoiser(Off(exact), build_prediction("eps", 1.0))
    noisy = torch.randn(2000, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    grid = build_grid("uniform", schedule, 50)
    *_, last = SAMPLERS[sampler].walk(clipped(denoiser, -5.0, 5.0), noisy, grid, nothing_drawn)
    assert last.noisy.std() == pytest.approx(1, abs=0.25)
    *_, last = SAMPLERS[sampler].walk(denoiser, noisy, grid, nothing_drawn)
    assert last.noisy.std() > 1.7


def nothing_drawn(shape: Sequence[int]) -> torch.Tensor:
    return torch.zeros(*shape)


@pytest.mark.parametrize("steps", [50, 1000])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "euler", "heun", "dpmpp_2m", "unipc"])
def test_eps_on_a_cosine_chain_holds_in_float32_without_clipping(sampler: str, steps: int) -> None:
    """Its last step keeps 5e-5 of the signal; the ideal denoiser is not blown up by it, though nothing is clipped."""
    schedule = build_noise_schedule("cosine", 1000)
    exact = pixel_gaussian(schedule, [0.3, -1.0, 0.0], [1.0, 0.5, 1.5])
    noisy = torch.randn(64, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    grid = build_grid("uniform", schedule, steps)
    *_, last = SAMPLERS[sampler].walk(through_network(exact, build_prediction("eps", 1.0)), noisy, grid, nothing_drawn)
    assert last.noisy.isfinite().all() and last.noisy.abs().max() < 8
    if sampler != "ddpm":
        truth = exact.flow_map(noisy.double(), grid[0], grid[-1])
        assert (last.noisy - truth).abs().max() < (0.3 if steps == 50 else 0.02)
