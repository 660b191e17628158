"""From a denoiser to uint8 images: one path for training's sample sheets, `generate` and every evaluation.

Each image depends on (seed, its index, its label) alone, so the batch size changes nothing. Results come batch by
batch, so thousands of images need no more memory than one batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from models import distributed
from models.diffusion.denoiser import Clipped, Denoiser, Estimate
from models.diffusion.guidance import Guided, Labelled
from models.diffusion.noise import shape_noise
from models.diffusion.noise_schedules import NoiseSchedule
from models.diffusion.samplers import SAMPLERS, Step, sampler_options
from models.diffusion.times import build_times
from models.errors import UserError
from models.randomness import image_draw
from models.spaces import Space

FRAMED = 100


@dataclass(frozen=True)
class Sampling:
    """How to sample. options: of the sampler, e.g. {"eta": 0.5}. clip: the clean estimate to the space's bounds.
    initial_noise: that of the model's training."""

    sampler: str = "ddim"
    steps: int = 50
    grid: str = "uniform"
    options: dict[str, object] = field(default_factory=dict)
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    clip: bool = True
    initial_noise: str = "gaussian"

    def check(self, schedule: NoiseSchedule) -> None:
        """Raises UserError for a value that cannot be sampled with."""
        known = sampler_options(self.sampler)
        for name in self.options:
            if name not in known:
                able = [sampler for sampler in SAMPLERS if name in sampler_options(sampler)]
                raise UserError(f"sampler {self.sampler} has no --{name}: it belongs to {', '.join(able) or 'none'}")
        times = build_times(self.grid, schedule, self.steps)
        pixel = torch.zeros(1, 1, 1, 1)
        # The first step of a rehearsal on one pixel: the sampler itself refuses values that it cannot take.
        next(SAMPLERS[self.sampler](_Nothing(schedule), pixel, times, self._rehearse, **self.options))
        numbers = {"guidance_scale": self.guidance_scale, **self.options}
        for name, value in numbers.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"--{name} {value}: takes finite numbers")
        if not 0 <= self.guidance_rescale <= 1:
            raise UserError(f"--guidance_rescale {self.guidance_rescale}: a share between 0 and 1")
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise UserError(f"--guidance_interval {low} {high}: two times with 0 <= low <= high <= 1")

    def _rehearse(self, shape: Sequence[int]) -> Tensor:
        """Fresh noise for the rehearsal, where the sampler may ask for it."""
        if self.initial_noise != "gaussian":
            raise UserError(
                f"sampler {self.sampler} adds Gaussian noise on its way, and the model starts from "
                f"{self.initial_noise} noise: take a deterministic one, e.g. heun, or ddim with eta 0"
            )
        return torch.zeros(*shape)

    def describe(self) -> str:
        """One phrase for the titles of pictures."""
        words = [
            self.sampler,
            *(f"{name} {value}" for name, value in self.options.items()),
            f"{self.steps} steps",
        ]
        if self.grid != "uniform":
            words.append(f"{self.grid} grid")
        if self.guidance_scale != 1:
            low, high = self.guidance_interval
            words.append(
                f"guidance {self.guidance_scale:g}" + (f" in {low:g} <= t <= {high:g}" if high - low < 1 else "")
            )
            if self.guidance_rescale:
                words.append(f"rescaled {self.guidance_rescale:g}")
        if not self.clip:
            words.append("not clipped")
        return ", ".join(words)


@dataclass(frozen=True)
class _Nothing:
    """A denoiser that sees nothing anywhere."""

    noise_schedule: NoiseSchedule

    def __call__(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Estimate:
        return Estimate(torch.zeros_like(noisy), torch.zeros_like(noisy))


class Counted:
    """A denoiser that counts the images its network has seen."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser
        self.images = 0

    @property
    def noise_schedule(self) -> NoiseSchedule:
        return self.denoiser.noise_schedule

    def __call__(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Estimate:
        self.images += len(noisy)
        return self.denoiser(noisy, t, label)


class Generated(NamedTuple):
    """One batch of images, uint8 (N, C, H, W), with what led to it: kept times and the clean estimates there."""

    images: Tensor
    labels: Tensor | None
    nfe: float
    frame_times: list[float]
    frames: list[Tensor]
    estimates: list[Tensor]


def guide_and_clip(
    denoiser: Denoiser, space: Space, sampling: Sampling, null_label: int, weak: Denoiser | None = None
) -> Denoiser:
    """The denoiser as it is to be sampled: guided, and clipped to the space's bounds."""
    guided = Guided(
        denoiser, sampling.guidance_scale, null_label, sampling.guidance_interval, sampling.guidance_rescale, weak
    )
    return Clipped(guided, *space.bounds) if sampling.clip and space.bounds is not None else guided


def frame_steps(steps: int, wanted: int) -> set[int]:
    """Up to `wanted` indices of steps, spread evenly, the last always among them."""
    if wanted <= 0:
        return set()
    wanted = min(wanted, steps)
    return {round((index + 1) * steps / wanted) - 1 for index in range(wanted)}


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    space: Space,
    sampling: Sampling,
    count: int,
    labels: Sequence[int] | None,
    null_label: int,
    seed: int,
    device: torch.device,
    batch_size: int,
    frames: int = 0,
    weak: Denoiser | None = None,
    together: bool = False,
) -> Iterator[Generated]:
    """Yields `count` images in batches. labels: one per image, None for no class. weak: the autoguidance's denoiser.
    together: share the batches out among the processes of the task, all of which make this call and get them all.

    frames: how many moments of the reverse process to keep, as uint8 images of x_t and of the clean estimate; only
    in the batches that hold one of the first FRAMED images, since nobody looks at more.
    """
    sampling.check(denoiser.noise_schedule)
    times = build_times(sampling.grid, denoiser.noise_schedule, sampling.steps)

    def batch_from(start: int) -> Generated:
        indices = range(start, min(start + batch_size, count))
        label = None if labels is None else torch.tensor([labels[i] for i in indices], device=device)
        counted = [Counted(each) for each in (denoiser, weak) if each is not None]
        ready = guide_and_clip(counted[0], space, sampling, null_label, counted[1] if weak is not None else None)
        draw = image_draw(seed, indices, device)
        noise = shape_noise(sampling.initial_noise, draw((len(indices), *space.shape)))
        walk = SAMPLERS[sampling.sampler](Labelled(ready, label), noise, times, draw, **sampling.options)
        kept = frame_steps(sampling.steps, frames if start < FRAMED else 0)
        return collect(walk, space, noise, label, counted, kept)

    starts = range(0, count, batch_size)
    yield from distributed.map_over_ranks(batch_from, starts) if together else map(batch_from, starts)


def collect(
    walk: Iterator[Step],
    space: Space,
    start: Tensor,
    label: Tensor | None,
    counted: Sequence[Counted],
    kept: set[int],
    start_time: float = 1.0,
) -> Generated:
    """Walks to the end, keeping the moments after the steps in `kept`, and the start if there are any."""
    times, frames, estimates = ([start_time], [space.decode(start).cpu()], []) if kept else ([], [], [])
    step = None
    for index, step in enumerate(walk):
        if index in kept:
            times.append(float(step.t))
            frames.append(space.decode(step.noisy).cpu())
            estimates.append(space.decode(step.estimate.clean).cpu())
    assert step is not None
    images = space.decode(step.noisy).cpu()
    labels = None if label is None else label.cpu()
    nfe = sum(each.images for each in counted) / len(images)
    return Generated(images, labels, nfe, times, frames, estimates)


def sheet_labels(count: int, classes: int) -> list[int] | None:
    """Class k, k+1, ... in reading order, so that columns of `classes` images show one class each."""
    return [index % classes for index in range(count)] if classes else None
