"""Generation of uint8 images by a model, for training, tasks, evaluations and notebooks.

An image depends on (seed, its index, its label) alone, not on the batch size. Batches are yielded one at a time, so
thousands of images need no more memory than one batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor

from models import distributed, processes
from models.class_names import find_labels
from models.diffusion.denoiser import Counter, Denoiser, clipped, counted, with_labels
from models.diffusion.guidance import guided
from models.diffusion.noise import shape_noise
from models.diffusion.samplers import SAMPLERS, Step, find_sampler
from models.diffusion.times import Grid, build_grid
from models.errors import UserError
from models.model import DenoiserSpec, Model
from models.progress import progress
from models.randomness import Draw, image_draw
from models.ranges import Share, check_ranges

FRAMED = 100  # Number of images whose frames can be drawn. Batches that start after them keep no frames.


class Solver(NamedTuple):
    """A sampler and its number of steps."""

    sampler: str
    steps: int


# Defaults for flow and chain models. They were the best for models that train for minutes (docs/studies.md).
OF_FLOW, OF_CHAIN = Solver("heun", 3), Solver("ddpm", 12)
MANY_STEPS = Solver("ddim", 50)  # Default for other models, and for work that edits or shows the reverse process.


def choose_solver(
    spec: DenoiserSpec, sampler: str | None = None, steps: int | None = None, usual: Solver | None = None
) -> Solver:
    """Return the sampler and its number of steps. None takes a default. The default steps depend on the sampler.

    usual: the default of a model that is not a student. If it is None, the default depends on noise schedule and
    initial noise. A student has its own defaults.
    """
    if spec.student is not None:
        return Solver(sampler or "ddim", steps or spec.student.evaluations)
    usual = usual or _usual_solver(spec)
    if sampler is not None:
        usual = Solver(sampler, 12 if find_sampler(sampler).nfe(50) > 50 else 50)
    if steps is None:
        steps = min(usual.steps, spec.timesteps) if spec.timesteps > 0 else usual.steps
    return Solver(usual.sampler, steps)


def _usual_solver(spec: DenoiserSpec) -> Solver:
    if spec.noise_schedule == "flow":
        return OF_FLOW
    # ddpm adds Gaussian noise, so the initial noise must be Gaussian.
    return OF_CHAIN if spec.timesteps > 0 and spec.initial_noise == "gaussian" else MANY_STEPS


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling. options: options of the sampler, e.g. {"eta": 0.5}. guidance_interval: in flow time.

    clip: whether to clip the clean estimates to the bounds of the space. weak: the weaker model of autoguidance.
    """

    sampler: str = "ddim"
    steps: int = 50
    grid: str = "uniform"
    options: dict[str, Any] = field(default_factory=dict)
    guidance_scale: float = 1.0
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    guidance_rescale: Share = 0.0
    clip: bool = True
    weak: Model | None = None

    def check(self, model: Model) -> None:
        """Raise UserError if the model cannot be sampled with these settings. The network is not run."""
        sampler, options = find_sampler(self.sampler), self.options
        for name in options:
            if name not in sampler.options:
                able = [other for other, row in SAMPLERS.items() if name in row.options]
                reason = f"`{name}`: sampler {self.sampler} does not have it"
                raise UserError(reason, *(f"use `sampler {other}`" for other in able))
        sampler.check(options)
        if model.spec.student is not None:
            model.spec.student.check(vars(self))
        self.levels(model)
        # The last step adds no noise.
        adds_noise = self.steps > 1 and sampler.adds_noise({**sampler.options, **options})
        if adds_noise and model.spec.initial_noise != "gaussian":
            reason = f"it adds Gaussian noise, and the model starts from {model.spec.initial_noise} noise"
            way_out = "use a deterministic one, e.g. `sampler heun`, or ddim with eta 0"
            raise UserError(f"`sampler {self.sampler}`: {reason}", way_out)
        check_ranges(vars(self), get_type_hints(Sampling, include_extras=True))
        low, high = self.guidance_interval
        if low > high:
            raise UserError(f"`guidance_interval` {low} {high}: must be two flow times with 0 <= low <= high <= 1")
        self._check_guidance(model)

    def _check_guidance(self, model: Model) -> None:
        if self.weak is None:
            check_guidance(model, self.guidance_scale)
            return
        if (student := self.weak.spec.student) is not None:
            message = f"`autoguidance` {self.weak.name}: a student does not know every noise level"
            raise UserError(message, f"use its teacher: `autoguidance {student.teacher}`")
        if self.guidance_scale == 1:
            raise UserError("`autoguidance`: it does nothing at `guidance_scale` 1", "give a larger `guidance_scale`")
        spec, weak = model.spec.facts(), self.weak.spec.facts()
        noise = "noise_schedule", "timesteps", "zero_terminal_snr", "chain_betas", "initial_noise"
        for shared, words in ((("space", "classes"), "images or classes"), (noise, "noise or noise schedule")):
            if any(spec[name] != weak[name] for name in shared):
                raise UserError(f"`autoguidance` {self.weak.name}: trained with other {words} than {model.name}")

    def levels(self, model: Model) -> Grid:
        """Return the grid of noise levels that the sampler walks. A student has its own grid."""
        if model.spec.student is not None:
            return Grid.of(model.noise_schedule, torch.tensor(model.spec.student.times, dtype=torch.float64))
        return build_grid(self.grid, model.noise_schedule, self.steps)

    def walk(self, denoiser: Denoiser, noisy: Tensor, grid: Grid, draw: Draw) -> Iterator[Step]:
        """Yield the sampler's steps from noisy images at grid[0]."""
        return find_sampler(self.sampler).walk(denoiser, noisy, grid, draw, **self.options)

    def describe(self) -> str:
        """Return the settings except `weak` as one phrase, for the titles of pictures."""
        options = (f"{name} {value}" for name, value in self.options.items())
        phrases = [self.sampler, *options, f"{self.steps} step" if self.steps == 1 else f"{self.steps} steps"]
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
    """Raise UserError if the scale is not 1 and the model was trained without labels or with label_drop 0."""
    if scale == 1:
        return
    if model.spec.classes == 0:
        raise UserError(f"`guidance_scale` {scale:g}: {model.name} was trained without labels to guide by")
    if model.spec.label_drop == 0:
        raise UserError(
            f"`guidance_scale` {scale:g}: {model.name} has no unconditional estimate: `label_drop` was 0 in training"
        )


class Generated(NamedTuple):
    """Batch of images, uint8 (N, C, H, W). nfe: network evaluations per image.

    frame_times, frames: t and the noisy images, at the start and after each kept step. estimates: the clean estimates
    of the kept steps. Frames and estimates are uint8.
    """

    images: Tensor
    labels: Tensor | None
    nfe: float
    frame_times: list[float]
    frames: list[Tensor]
    estimates: list[Tensor]


class Start(NamedTuple):
    """Start of a batch: noisy images, their t and labels, and the iterator of the sampler's steps from them."""

    noisy: Tensor
    t: float
    labels: Tensor | None
    steps: Iterator[Step]


def sampled_denoiser(model: Model, sampling: Sampling) -> tuple[Denoiser, list[Counter]]:
    """Return the model's denoiser with guidance and clipping, and the counters of its network evaluations."""
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


def spaced_steps(grid: Grid, count: int) -> set[int]:
    """Return at most `count` step indices that include the last step, about equally spaced in flow time.

    Equal steps in flow time change an image about equally. Some grids have many steps that change nothing visible.
    """
    ends = grid.levels.flow_time[1:]  # (S,), at the end of each step
    spaced = torch.linspace(grid.levels.flow_time[0].item(), 0, count + 1, dtype=torch.float64)[1:]
    return {int((ends - flow_time).abs().argmin()) for flow_time in spaced}


def start_from_noise(
    model: Model,
    sampling: Sampling,
    grid: Grid,
    denoiser: Denoiser,
    indices: range,
    labels: Sequence[int] | None,
    seed: int,
) -> Start:
    """Return the `Start` of the images with these indices and labels. Their noise is drawn with the seed."""
    label = None if labels is None else torch.tensor(labels, device=model.device)
    draw = image_draw(seed, indices, model.device)
    noise = shape_noise(model.spec.initial_noise, draw((len(indices), *model.space.shape)))
    return Start(noise, 1.0, label, sampling.walk(with_labels(denoiser, label), noise, grid, draw))


@torch.no_grad()
def generate_from(
    begin: Callable[[Denoiser, range], Start],
    model: Model,
    sampling: Sampling,
    count: int,
    steps: int,
    batch_size: int,
    kept: set[int],
    framed: int | None = None,
    over_ranks: bool = False,
) -> Iterator[Generated]:
    """Yield `count` images in batches, each batch from the start that `begin(denoiser, indices)` returns.

    steps: number of sampler steps of each batch. kept: indices of the steps after which a frame is kept. framed: only
    batches whose first image has an index below this number keep frames; None: all batches do. over_ranks: divide the
    batches among the ranks. Then every rank must call this function, and every rank receives all batches.
    """

    def batch_from(first: int) -> Generated:
        indices = range(first, min(first + batch_size, count))
        denoiser, counters = sampled_denoiser(model, sampling)
        framed_steps = kept if framed is None or first < framed else set()
        share = len(indices) / steps * (processes.world_size() if over_ranks else 1)
        return _collect(begin(denoiser, indices), model, counters, framed_steps, lambda: advance(share))

    firsts = range(0, count, batch_size)
    with progress("generating images", count) as advance:
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
    """Yield `count` images in batches, from the noise of the seed. Raises UserError if `sampling` does not fit `model`.

    labels: one per image; None to sample without labels. frames: largest number of frames to keep per batch,
    besides its start. Batches after the first FRAMED images keep no frames. over_ranks: as in `generate_from`.
    """
    sampling.check(model)
    grid = sampling.levels(model)

    def begin(denoiser: Denoiser, indices: range) -> Start:
        own = None if labels is None else labels[indices.start : indices.stop]
        return start_from_noise(model, sampling, grid, denoiser, indices, own, seed)

    kept = spaced_steps(grid, frames)
    return generate_from(begin, model, sampling, count, sampling.steps, batch_size, kept, FRAMED, over_ranks)


def sample(
    model: Model,
    count: int = 16,
    labels: Sequence[int | str] | None = None,
    seed: int = 0,
    batch_size: int = 256,
    sampler: str | None = None,
    steps: int | None = None,
    **sampling: Any,
) -> Tensor:
    """Return `count` images, uint8 (count, C, H, W) on the CPU. Raises UserError.

    labels: classes that the images cycle through, by number or name; None for all. sampler, steps: None for the
    defaults of `choose_solver`. sampling: other fields of `Sampling`, or options of the sampler.
    """
    values = {field.name: sampling.pop(field.name) for field in fields(Sampling) if field.name in sampling}
    options = {**values.pop("options", {}), **sampling}
    settings = Sampling(*choose_solver(model.spec, sampler, steps), options=options, **values)
    named = None if labels is None else named_labels(model, labels)[0]
    in_turn = choose_labels(model, named, count)
    return torch.cat([batch.images for batch in generate(model, settings, count, in_turn, seed, batch_size)])


def named_labels(model: Model, words: Sequence[int | str]) -> tuple[list[int], list[str]]:
    """Return the labels of the words (numbers, names, ranges), and the notes of `find_labels`. Raises UserError."""
    if model.spec.classes == 0:
        raise UserError(f"`labels` {' '.join(map(str, words))}: {model.name} was trained without labels")
    if not words:
        raise UserError("`labels`: name one or more classes")
    return find_labels(words, model.spec.class_names)


def choose_labels(model: Model, labels: Sequence[int] | None, count: int, first: int = 0) -> list[int] | None:
    """Return `count` labels that cycle through `labels`, by default the trained classes. None if there are no classes.

    first: index of the first image. Raises UserError for classes that had no training image.
    """
    for label in labels or ():
        if label in model.spec.untrained:
            name = model.spec.class_names[label]
            raise UserError(f"`labels` {label}: the class {name} had no training image", "choose other `labels`")
    turns = labels or model.spec.trained
    return [turns[index % len(turns)] for index in range(first, first + count)] if turns else None


def _collect(
    start: Start, model: Model, counters: Sequence[Counter], framed: set[int], stepped: Callable[[], None]
) -> Generated:
    """Take all steps. If `framed` is not empty, keep the start and a frame after each step in `framed`.

    stepped: called after each step.
    """
    space = model.space
    times, frames, estimates = ([start.t], [space.decode(start.noisy).cpu()], []) if framed else ([], [], [])
    step = None
    for index, step in enumerate(start.steps):
        stepped()
        if index in framed:
            times.append(float(step.level.t))
            frames.append(space.decode(step.noisy).cpu())
            estimates.append(space.decode(step.estimate.clean).cpu())
    assert step is not None
    images = space.decode(step.noisy).cpu()
    labels = None if start.labels is None else start.labels.cpu()
    nfe = sum(counter.images for counter in counters) / len(images)
    return Generated(images, labels, nfe, times, frames, estimates)
