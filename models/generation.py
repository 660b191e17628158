"""From a model to uint8 images: the one path of sample sheets, `generate`, pictures and every evaluation.

Each image depends on (seed, its index, its label) alone, so the batch size changes nothing. Results come batch by
batch, so thousands of images need no more memory than one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models import distributed
from models.diffusion.denoiser import Counter, Denoiser, clipped, counted, with_labels
from models.diffusion.guidance import guided
from models.diffusion.noise import shape_noise
from models.diffusion.samplers import SAMPLERS, Step, find_sampler
from models.diffusion.times import Grid, build_grid
from models.errors import UserError
from models.model import Model
from models.randomness import Draw, image_draw

FRAMED = 100  # Images whose reverse process is kept on request; nobody looks at more.


def default_steps(sampler: str, timesteps: int) -> int:
    """Return the usual number of sampling steps on a chain of that length (0: continuous)."""
    usual = 12 if sampler in ("heun", "midpoint") else 50
    return min(usual, timesteps) if timesteps > 0 else usual


def labels_in_turn(count: int, classes: int) -> list[int] | None:
    """Return the labels 0, 1, 2, ... in turn; None for a model without classes."""
    return [index % classes for index in range(count)] if classes else None


@dataclass(frozen=True)
class Sampling:
    """How to sample a model.

    options: of the sampler, e.g. {"eta": 0.5}. guidance_interval: in flow time. clip: clip the clean estimate to the
    space's bounds. weak: the weaker model of autoguidance.
    """

    sampler: str = "ddim"
    steps: int = 50
    grid: str = "uniform"
    options: dict[str, Any] = field(default_factory=dict)
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    clip: bool = True
    weak: Model | None = None

    def check(self, model: Model) -> None:
        """Raise UserError for a value that the model cannot be sampled with. Nothing is computed."""
        sampler, options = find_sampler(self.sampler), self.options
        for name in options:
            if name not in sampler.options:
                able = [other for other, row in SAMPLERS.items() if name in row.options]
                raise UserError(
                    f"`{name}`: sampler {self.sampler} does not have it; {', '.join(able) or 'no sampler'} has"
                )
        sampler.check(options)
        self.levels(model)
        if sampler.adds_noise({**sampler.options, **options}) and model.spec.initial_noise != "gaussian":
            raise UserError(
                f"`sampler {self.sampler}`: it adds Gaussian noise, and the model starts from "
                f"{model.spec.initial_noise} noise",
                "use a deterministic one, e.g. `sampler heun`, or ddim with eta 0",
            )
        if not math.isfinite(self.guidance_scale):
            raise UserError(f"`guidance_scale` {self.guidance_scale}: must be finite")
        if not 0 <= self.guidance_rescale <= 1:
            raise UserError(f"`guidance_rescale` {self.guidance_rescale}: must be at least 0 and at most 1")
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise UserError(f"`guidance_interval` {low} {high}: must be two flow times with 0 <= low <= high <= 1")
        self._check_guidance(model)

    def _check_guidance(self, model: Model) -> None:
        """Raise UserError if the model has nothing to guide by, or the weaker model does not fit it."""
        if self.weak is None:
            check_guidance(model, self.guidance_scale)
            return
        if self.guidance_scale == 1:
            raise UserError("`autoguidance`: it does nothing at `guidance_scale` 1", "give a larger `guidance_scale`")
        mine, other = model.spec, self.weak.spec
        if mine.facts()["space"] != other.facts()["space"] or mine.classes != other.classes:
            raise UserError(f"`autoguidance` {self.weak.name}: made for other images or classes than {model.name}")
        same = ("noise_schedule", "timesteps", "zero_terminal_snr", "initial_noise")
        if any(getattr(mine, name) != getattr(other, name) for name in same):
            raise UserError(
                f"`autoguidance` {self.weak.name}: trained with other noise or another noise schedule than {model.name}"
            )

    def levels(self, model: Model) -> Grid:
        """Return the grid that the sampler walks."""
        return build_grid(self.grid, model.noise_schedule, self.steps)

    def walk(self, denoiser: Denoiser, noisy: Tensor, grid: Grid, draw: Draw) -> Iterator[Step]:
        """Return the sampler's steps from noisy images at grid[0]."""
        return find_sampler(self.sampler).walk(denoiser, noisy, grid, draw, **self.options)

    def describe(self) -> str:
        """Return one phrase for the titles of pictures."""
        phrases = [
            self.sampler,
            *(f"{name} {value}" for name, value in self.options.items()),
            f"{self.steps} steps",
        ]
        if self.grid != "uniform":
            phrases.append(f"{self.grid} grid")
        if self.guidance_scale != 1:
            low, high = self.guidance_interval
            interval = f" in {low:g} <= flow time <= {high:g}" if high - low < 1 else ""
            phrases.append(f"guidance {self.guidance_scale:g}{interval}")
            if self.guidance_rescale:
                phrases.append(f"rescaled {self.guidance_rescale:g}")
        if not self.clip:
            phrases.append("not clipped")
        return ", ".join(phrases)


def check_guidance(model: Model, scale: float) -> None:
    """Raise UserError if the model has no unconditional half to guide by."""
    if scale == 1:
        return
    if model.spec.classes == 0:
        raise UserError(f"`guidance_scale` {scale:g}: {model.name} was trained without labels, so there is none")
    if model.spec.label_drop == 0:
        raise UserError(
            f"`guidance_scale` {scale:g}: the model was trained with label_drop 0 and has no unconditional half"
        )


class Generated(NamedTuple):
    """One batch of images, uint8 (N, C, H, W).

    nfe: network evaluations per image. frame_times, frames, estimates: moments of the reverse process that were kept:
    t, the noisy images and the clean estimates, both uint8. The start has a frame and no estimate.
    """

    images: Tensor
    labels: Tensor | None
    nfe: float
    frame_times: list[float]
    frames: list[Tensor]
    estimates: list[Tensor]


class Start(NamedTuple):
    """Where a batch begins: noisy images, their level's t, their labels, and the steps that lead on from there."""

    noisy: Tensor
    t: float
    labels: Tensor | None
    steps: Iterator[Step]


def sampled_denoiser(model: Model, sampling: Sampling) -> tuple[Denoiser, list[Counter]]:
    """Return the denoiser as it is sampled: counted, guided, and clipped to the space's bounds."""
    counters: list[Counter] = []

    def count(denoiser: Denoiser) -> Denoiser:
        denoiser, counter = counted(denoiser)
        counters.append(counter)
        return denoiser

    denoiser = guided(
        count(model.denoiser),
        sampling.guidance_scale,
        model.spec.classes,
        sampling.guidance_interval,
        sampling.guidance_rescale,
        None if sampling.weak is None else count(sampling.weak.denoiser),
    )
    bounds = model.space.bounds
    return (clipped(denoiser, *bounds) if sampling.clip and bounds is not None else denoiser), counters


def frame_steps(steps: int, count: int) -> set[int]:
    """Return up to `count` indices of steps, spread evenly; the last step is always among them."""
    count = min(count, steps)
    return {round((index + 1) * steps / count) - 1 for index in range(count)} if count > 0 else set()


@torch.no_grad()
def generate_from(
    begin: Callable[[Denoiser, range], Start],
    model: Model,
    sampling: Sampling,
    count: int,
    steps: int,
    batch_size: int,
    frames: int = 0,
    framed: int | None = None,
    over_ranks: bool = False,
) -> Iterator[Generated]:
    """Yield `count` images in batches, each from where `begin(denoiser, indices)` says.

    steps: how many steps each walk has. frames: how many moments of the reverse process to keep, in batches that begin
    below the index `framed`. over_ranks: share the batches among the ranks; all ranks make this call and get them all.
    """

    def batch_from(first: int) -> Generated:
        indices = range(first, min(first + batch_size, count))
        denoiser, counters = sampled_denoiser(model, sampling)
        kept = frame_steps(steps, frames if framed is None or first < framed else 0)
        return _collect(begin(denoiser, indices), model, counters, kept)

    firsts = range(0, count, batch_size)
    yield from distributed.map_over_ranks(batch_from, firsts) if over_ranks else map(batch_from, firsts)


def generate(
    model: Model,
    sampling: Sampling,
    count: int,
    labels: Sequence[int] | None,
    seed: int,
    batch_size: int,
    frames: int = 0,
    over_ranks: bool = False,
) -> Iterator[Generated]:
    """Yield `count` images in batches, from the noise of the seed. Raises UserError for a sampling that does not fit.

    labels: one per image, None for no class. frames: how many moments of the reverse process to keep, only in the
    batches that hold one of the first FRAMED images. over_ranks: see `generate_from`.
    """
    sampling.check(model)
    grid = sampling.levels(model)

    def begin(denoiser: Denoiser, indices: range) -> Start:
        label = None if labels is None else torch.tensor([labels[index] for index in indices], device=model.device)
        draw = image_draw(seed, indices, model.device)
        noise = shape_noise(model.spec.initial_noise, draw((len(indices), *model.space.shape)))
        return Start(noise, 1.0, label, sampling.walk(with_labels(denoiser, label), noise, grid, draw))

    return generate_from(begin, model, sampling, count, sampling.steps, batch_size, frames, FRAMED, over_ranks)


def sample(
    model: Model,
    count: int = 16,
    labels: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = 256,
    sampler: str = "heun",
    steps: int | None = None,
    **sampling: Any,
) -> Tensor:
    """Return `count` images, uint8 (count, C, H, W) on the CPU.

    labels: classes to sample in turn; None for all of them. steps: None for the sampler's usual number. sampling:
    further fields of `Sampling`, e.g. guidance_scale, or options of the sampler. Raises UserError.
    """
    settings = {name: value for name, value in sampling.items() if name in {each.name for each in fields(Sampling)}}
    options = {name: value for name, value in sampling.items() if name not in settings}
    steps = default_steps(sampler, model.spec.timesteps) if steps is None else steps
    chosen = choose_labels(model, labels, count)
    how = Sampling(sampler, steps, options=options, **settings)
    return torch.cat([batch.images for batch in generate(model, how, count, chosen, seed, batch_size)])


def choose_labels(model: Model, labels: Sequence[int] | None, count: int) -> list[int] | None:
    """Return one label per image, the given ones in turn, None for all classes. Raises UserError for unknown ones."""
    classes = model.spec.classes
    if classes == 0:
        if labels is not None:
            raise UserError(f"`labels` {' '.join(map(str, labels))}: {model.name} was trained without labels")
        return None
    for label in labels or ():
        if not 0 <= label < classes:
            raise UserError(f"`labels` {label}: the model has the classes 0 to {classes - 1}")
    chosen = labels or range(classes)
    return [chosen[index % len(chosen)] for index in range(count)]


def join(batches: Sequence[Generated]) -> Generated:
    """Return batches as one; the frames are those of the batches that kept some."""
    framed = [batch for batch in batches if batch.frames]
    count = sum(len(batch.images) for batch in batches)
    return Generated(
        images=torch.cat([batch.images for batch in batches]),
        labels=None if batches[0].labels is None else torch.cat([b.labels for b in batches if b.labels is not None]),
        nfe=sum(batch.nfe * len(batch.images) for batch in batches) / count,
        frame_times=framed[0].frame_times if framed else [],
        frames=[torch.cat(frames) for frames in zip(*(batch.frames for batch in framed), strict=True)],
        estimates=[torch.cat(estimates) for estimates in zip(*(batch.estimates for batch in framed), strict=True)],
    )


def _collect(start: Start, model: Model, counters: Sequence[Counter], kept: set[int]) -> Generated:
    """Walk to the end, keeping the moments after the steps in `kept`, and the start if there are any."""
    space = model.space
    times, frames, estimates = ([start.t], [space.decode(start.noisy).cpu()], []) if kept else ([], [], [])
    step = None
    for index, step in enumerate(start.steps):
        if index in kept:
            times.append(float(step.level.t))
            frames.append(space.decode(step.noisy).cpu())
            estimates.append(space.decode(step.estimate.clean).cpu())
    assert step is not None
    images = space.decode(step.noisy).cpu()
    labels = None if start.labels is None else start.labels.cpu()
    nfe = sum(counter.images for counter in counters) / len(images)
    return Generated(images, labels, nfe, times, frames, estimates)
