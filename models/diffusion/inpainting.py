"""Images of which a part is known: the rest is sampled around it, by any sampler.

The known part enters as a denoiser that answers with it, so every sampler carries it from noise to the image exactly.
What lies beside it is brought into harmony by going back and forth in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.diffusion.denoiser import Denoiser, Estimate, estimate_from_clean
from models.diffusion.noise_schedules import NoiseSchedule
from models.diffusion.samplers import Step
from models.randomness import Draw


@dataclass(frozen=True)
class Known:
    """A denoiser that answers with `clean` (N, C, H, W) where `known` is True (t > 0); known: bool, broadcast to it."""

    denoiser: Denoiser
    clean: Tensor
    known: Tensor

    @property
    def noise_schedule(self) -> NoiseSchedule:
        return self.denoiser.noise_schedule

    def __call__(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Estimate:
        clean = torch.where(self.known, self.clean, self.denoiser(noisy, t, label).clean)
        return estimate_from_clean(self.noise_schedule, noisy, t, clean)


def known_places(known: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Bool (H, W) of an image -> bool (1, h, w) of its encoded form: known where all the pixels behind it are."""
    hidden = F.adaptive_max_pool2d((~known)[None].float(), shape[1:])
    return hidden == 0


def add_noise_from(schedule: NoiseSchedule, noisy: Tensor, here: Tensor, there: Tensor, draw: Draw) -> Tensor:
    """A draw of the images at the later time `there`, given those at `here`: q(x_there | x_here), alpha(here) > 0."""
    share = (schedule.alpha(there) / schedule.alpha(here)).item()
    fresh = math.sqrt(max(schedule.sigma(there).item() ** 2 - (share * schedule.sigma(here).item()) ** 2, 0.0))
    return share * noisy + fresh * draw(noisy.shape)


def inpaint(
    walk: Callable[[Tensor, Tensor], Iterator[Step]],
    schedule: NoiseSchedule,
    noisy: Tensor,
    times: Tensor,
    draw: Draw,
    resample: int = 1,
    jump: int = 10,
) -> Iterator[Step]:
    """RePaint's walk (Lugmayr et al. 2022, algorithm 1 and section 4.2): `jump` steps down, back up, down again.

    walk(noisy, times): a sampler of a `Known` denoiser. Every stretch of `jump` steps is walked `resample` times, and
    before each repetition its noise is put back on; 1 walks straight down. Yields S * resample steps.
    """
    for first in range(0, len(times) - 1, jump):
        stretch = times[first : first + jump + 1]
        for attempt in range(resample):
            if attempt > 0:
                noisy = add_noise_from(schedule, noisy, stretch[-1], stretch[0], draw)
            for step in walk(noisy, stretch):
                noisy = step.noisy
                yield step
