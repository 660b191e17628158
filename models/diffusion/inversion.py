"""From an image back to the noise that a deterministic sampler would have made it from.

Walking DDIM backwards in time needs the estimate at the noisier end of each step, which is what is sought; a fixed
point finds it. The way back to the image is `samplers.ddim` on the same times.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.diffusion.samplers import Step


def invert(denoiser: Denoiser, clean: Tensor, times: Tensor, refinements: int = 4) -> Iterator[Step]:
    """The steps of `ddim` with eta = 0 (Song et al. 2021 eq. 12), solved backwards from times[-1] to times[0].

    clean: (N, C, H, W) at times[-1]; times: (S+1,) decreasing, as `ddim` walks them. Yields S steps. Each begins at
    the same place in flow coordinates (see `samplers.py`), tries the step of `ddim` from there, and adds what it
    misses `clean` by: once, which is the usual inversion of first order, and `refinements` times more. Every try is
    one network call, none of them at times[-1], where the noise of some predictions is undefined.
    """
    schedule = denoiser.noise_schedule
    rising = times.double().cpu().flip(0)
    noisy = clean
    for there, here in pairwise(rising):
        alpha, sigma = schedule.alpha(there).item(), schedule.sigma(there).item()
        growth = (schedule.alpha(here) + schedule.sigma(here)).item() / (alpha + sigma)
        wanted, noisy = noisy, growth * noisy
        estimate = denoiser(noisy, here)
        for _ in range(refinements):
            noisy = noisy + growth * (wanted - alpha * estimate.clean - sigma * estimate.noise)
            estimate = denoiser(noisy, here)
        noisy = noisy + growth * (wanted - alpha * estimate.clean - sigma * estimate.noise)
        yield Step(noisy, estimate, here)
