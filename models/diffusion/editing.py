"""Editing of given images: inpainting around a known part, and inversion from an image back to its noise."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from models.diffusion.denoiser import Denoiser, Estimate, estimate_from_clean
from models.diffusion.noise_schedules import NoiseLevel
from models.diffusion.samplers import Step
from models.diffusion.times import Grid
from models.randomness import Draw


def with_known(denoiser: Denoiser, clean: Tensor, known: Tensor) -> Denoiser:
    """Replace the clean estimate by `clean` (N, C, H, W) where the mask `known` is True. Requires t > 0.

    known: bool, broadcasts to `clean`. With this denoiser, every sampler reproduces the known part exactly.
    """

    def fill(noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        return estimate_from_clean(noisy, level, torch.where(known, clean, denoiser(noisy, level, label).clean))

    return fill


def known_in_space(known: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Convert a bool mask (H, W) of known pixels to a mask (1, h, w) of the encoded image.

    An element of the encoded image is known if all pixels of its region are known.
    """
    hidden = F.adaptive_max_pool2d((~known)[None].float(), shape[1:])
    return hidden == 0


def add_noise_from(noisy: Tensor, here: NoiseLevel, there: NoiseLevel, draw: Draw) -> Tensor:
    """Draw images at the noisier level `there`, given images at `here`: q(x_there | x_here). Needs alpha(here) > 0."""
    share = (there.alpha / here.alpha).item()
    fresh = math.sqrt(max(there.sigma.item() ** 2 - (share * here.sigma.item()) ** 2, 0.0))
    return share * noisy + fresh * draw(noisy.shape)


def inpaint(
    walk: Callable[[Tensor, Grid], Iterator[Step]],
    noisy: Tensor,
    grid: Grid,
    draw: Draw,
    resample: int = 1,
    jump: int = 10,
) -> Iterator[Step]:
    """Inpaint with RePaint (Lugmayr et al. 2022, algorithm 1 and section 4.2): denoise, add noise again, repeat.

    walk(noisy, grid): a sampler with a denoiser from `with_known`. Each stretch of `jump` steps is walked `resample`
    times. Before each repetition, the noise of the stretch is added again, which makes the known and unknown parts
    consistent. resample = 1 walks each stretch once. Yields S * resample steps.
    """
    for first in range(0, len(grid) - 1, jump):
        stretch = grid[first : first + jump + 1]
        for attempt in range(resample):
            if attempt > 0:
                noisy = add_noise_from(noisy, stretch[-1], stretch[0], draw)
            for step in walk(noisy, stretch):
                noisy = step.noisy
                yield step


def invert(denoiser: Denoiser, clean: Tensor, grid: Grid, refinements: int = 4) -> Iterator[Step]:
    """Run `ddim` with eta = 0 (Song et al. 2021 eq. 12) backwards, from grid[-1] to the noise at grid[0].

    clean: (N, C, H, W) at grid[-1]. Yields S steps. A backward step needs the estimate at its noisier end. The images
    there are found by fixed-point iteration. In flow coordinates (see `samplers.py`), the first guess equals the images
    before the step. Each iteration takes the step of `ddim` from the guess and corrects the guess by the step's error.
    One iteration is the usual first-order inversion. Each of `refinements` further iterations costs an evaluation.
    The denoiser is never called at grid[-1], where the noise of some predictions is undefined.
    """
    noisy = clean
    for index in range(len(grid) - 1, 0, -1):
        there, here = grid[index], grid[index - 1]
        alpha, sigma = there.alpha.item(), there.sigma.item()
        growth = here.flow_scale.item() / (alpha + sigma)
        goal, noisy = noisy, growth * noisy
        estimate = denoiser(noisy, here)
        for _ in range(refinements):
            noisy = noisy + growth * (goal - alpha * estimate.clean - sigma * estimate.noise)
            estimate = denoiser(noisy, here)
        noisy = noisy + growth * (goal - alpha * estimate.clean - sigma * estimate.noise)
        yield Step(noisy, estimate, here)
