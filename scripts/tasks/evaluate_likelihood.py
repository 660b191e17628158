"""`evaluate --task likelihood`: how many bits a model of pixels needs for each number of an image it has not seen."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from data import Split
from models import processes
from models.diffusion.denoiser import Denoiser, clipped
from models.errors import UserError
from models.evaluation.code_length import GreyLevels, Method, Parts, SpreadDensity, VariationalBound, bits_per_dimension
from models.evaluation.images import Images
from models.evaluation.statistics import refuse_infinite
from models.model import Model
from models.training.interrupts import Interrupts
from scripts.cli.arguments import check_positive, parse_flags
from scripts.cli.flags import ModelFlags, SourceFlags, one_of
from scripts.tasks.protocol import (
    data_card,
    estimated,
    in_batches,
    load_data_of_run,
    model_card,
    report_folder,
    spread_over,
    with_interval,
    write_report,
)
from scripts.tasks.sampling import find_checkpoint, open_model, resolve_model

DESCRIPTION = "Bound the bits per dimension of a trained run on test images. Prints the report's path."
USUAL_COUNT = 500
METHODS = ("auto", "vlb", "ode")
PARTS = {
    "prior": "L_T, what the end of the chain still knows of the image",
    "steps": "L_1 to L_{T-1}, the steps in between",
    "decoder": "L_0, from the last step to the grey levels",
}


@dataclass(frozen=True)
class VlbFlags:
    """Of --method vlb."""

    vlb_steps: int = 100
    """Steps of the chain that are evaluated for each image, drawn so that the mean is that of the whole chain; 0 for
    all, as where the chain has no more."""


@dataclass(frozen=True)
class SpreadFlags:
    """Of --method ode."""

    ode_steps: int = 50
    """Steps of the probability-flow ODE, two network evaluations each."""
    first_time: float = 0.0023
    """Flow time at which the ODE ends, on the side of the image; the default has the noise of a grey level's width."""
    probes: int = 1
    """Random probes of the divergence, fixed along a solve; 0 for the exact trace, for small images."""


@dataclass(frozen=True)
class LikelihoodFlags:
    """Settings of `evaluate --task likelihood`."""

    task: str = "likelihood"
    """This task."""
    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    split: str = "test"
    """test or train."""
    num_images: int | None = None
    """Images, evenly spaced over the split; 0 for all. Default: 500, or as many as there are."""
    method: Annotated[str, one_of(METHODS)] = "auto"
    """vlb: the variational bound of a chain. ode: the density along the probability-flow ODE, of images spread over
    their grey levels. auto: vlb for a chain, ode for a continuous schedule. Both are upper bounds."""
    vlb: tyro.conf.OmitArgPrefixes[VlbFlags] = field(default_factory=VlbFlags)
    ode: tyro.conf.OmitArgPrefixes[SpreadFlags] = field(default_factory=SpreadFlags)
    seed: int = 0
    """What an image is shown depends on the seed and its number alone, whatever the batch size."""
    batch_size: int = 256
    """Images per network call."""
    out: str | None = None
    """Folder for the report. Default: evaluation/ in the run."""


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, LikelihoodFlags(), "evaluate", DESCRIPTION)
    check_positive(flags, "batch_size")
    if flags.method not in METHODS:
        raise UserError(f"--method {flags.method}: choose from {', '.join(METHODS)}")
    flags = replace(flags, model=resolve_model(flags.model))
    path = find_checkpoint(flags.model)
    model = open_model(path, flags.model)
    if model.space.grey_levels is None:
        raise UserError(
            f"{path} is a model of latents: its likelihood is a density of latents, which says nothing of images in "
            "bits; take a run trained on pixels"
        )
    levels = GreyLevels(*model.space.grey_levels)
    if flags.method == "auto":
        flags = replace(flags, method="ode" if model.spec.timesteps == 0 else "vlb")
    method, denoiser = _method(flags, model)
    dataset = load_data_of_run(path, flags.data)
    part, numbers = spread_over(dataset, flags.split, flags.num_images, USUAL_COUNT)
    with Interrupts(at_once=True):
        folder = report_folder(path, flags.out)
        started = time.perf_counter()
        parts = _measure(flags, model, method, denoiser, levels, part, numbers)
        seconds = time.perf_counter() - started
    if not processes.is_rank_zero():
        return
    evaluations = method.evaluations(model.noise_schedule)
    settings = {**asdict(method), "steps": evaluations} if flags.method == "vlb" else asdict(method)
    card = {
        **model_card(path, flags.model),
        **data_card(dataset, flags.split, {"images": "evenly spaced"}, part),
        "labels": "each image's own" if model.spec.classes else "none",
        "method": flags.method,
        **settings,
        "clip": denoiser is not model.denoiser,
        "seed": flags.seed,
        "batch_size": flags.batch_size,
    }
    results = _results(parts, part, bool(model.spec.classes), evaluations, seconds)
    print(write_report(folder, "likelihood", card, results, _table(results)))


def _method(flags: LikelihoodFlags, model: Model) -> tuple[Method, Denoiser]:
    """The method, checked, and the denoiser that it reads: a bound may clip as samplers do, a density may not, since
    where estimates are clipped the flow has no inverse. Raises UserError."""
    ode, denoiser = flags.ode, model.denoiser
    method: Method = SpreadDensity(ode.ode_steps, ode.first_time, ode.probes)
    if flags.method == "vlb":
        method = VariationalBound(flags.vlb.vlb_steps)
    method.check(model.noise_schedule, model.space.shape, model.spec.initial_noise)
    if flags.method == "vlb" and model.space.bounds is not None:
        return method, clipped(denoiser, *model.space.bounds)
    return method, denoiser


def _measure(
    flags: LikelihoodFlags,
    model: Model,
    method: Method,
    denoiser: Denoiser,
    levels: GreyLevels,
    part: Split,
    numbers: list[int],
) -> Parts:
    """All images, a batch at a time, so that memory is bounded and progress shows."""
    device, dimensions = torch.device(flags.model.device), math.prod(part.images.shape[1:])
    found: list[Parts] = []

    def so_far(done: int) -> str:
        bits = bits_per_dimension(torch.cat([_total(each) for each in found]), dimensions)
        return f"{bits.mean():.4f} bits per dimension"

    def measure(here: slice) -> Parts:
        clean = model.space.encode(part.images[here].to(device))
        images = Images(clean, numbers[here], flags.seed, model.spec.initial_noise)
        label = part.labels[here].to(device) if model.spec.classes else None
        return method.nats(denoiser, model.noise_schedule, images, label, levels)

    for each in in_batches(measure, len(part), flags.batch_size, so_far):
        refuse_infinite(_total(each))
        found.append(each)
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


def _total(parts: Parts) -> Tensor:
    return torch.stack(list(parts.values())).sum(0)


def _results(parts: Parts, part: Split, labelled: bool, evaluations: int, seconds: float) -> dict[str, Any]:
    """Everything the report says, as plain numbers."""
    nats, dimensions = _total(parts), math.prod(part.images.shape[1:])
    channels = part.images.shape[1]
    return {
        "bits_per_dimension": estimated(bits_per_dimension(nats, dimensions)),
        "of": f"8-bit {'grey' if channels == 1 else 'colour'} levels{', given the label' if labelled else ''}",
        "bound": "upper",
        "parts": {
            name: estimated(bits_per_dimension(each, dimensions)) for name, each in parts.items() if len(parts) > 1
        },
        "nats_per_image": estimated(nats),
        "dimensions": dimensions,
        "images": len(part),
        "evaluations_per_image": evaluations,
        "seconds": round(seconds, 3),
        "seconds_per_image": round(seconds / len(part), 6),
    }


def _table(results: dict[str, Any]) -> str:
    """The results for people."""
    lines = [
        f"{with_interval(results['bits_per_dimension'])} bits per dimension of {results['of']}",
        f"an upper bound on -log2 p(image{'|label' if 'label' in results['of'] else ''}) / {results['dimensions']}, "
        f"mean of {results['images']} images with its 95 % interval",
        f"nats per image: {with_interval(results['nats_per_image'], 2)}",
        *(f"  {with_interval(part)} bits: {PARTS[name]}" for name, part in results["parts"].items()),
        f"network evaluations per image: {results['evaluations_per_image']}",
        f"seconds per image: {results['seconds_per_image']:.4f}",
    ]
    return "\n".join(lines)
