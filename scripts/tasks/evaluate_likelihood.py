"""The work of `evaluate --task likelihood`: an upper bound on the bits per dimension of a pixel model."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from data import Split
from models import processes
from models.diffusion.denoiser import Denoiser, clipped
from models.errors import UserError
from models.evaluation.code_length import GreyLevels, Method, Parts, SpreadDensity, VariationalBound, bits_per_dimension
from models.evaluation.images import Images
from models.evaluation.statistics import refuse_infinite
from models.model import Model, require_every_level
from models.training.interrupts import Interrupts
from scripts.tasks import protocol
from scripts.tasks.sampling import find_checkpoint, folder_in_run, open_model, resolve_model

if TYPE_CHECKING:
    from scripts.cli.evaluation_flags import LikelihoodFlags

FEWER = 500  # Default number of images. A likelihood takes many network evaluations.
MEANINGS_OF_PARTS = {
    "prior": "L_T, remaining information on the image at the end of the chain",
    "steps": "L_1 to L_{T-1}, the steps in between",
    "decoder": "L_0, from the last step to the grey levels",
}


def main(flags: LikelihoodFlags) -> None:
    flags = replace(flags, model=resolve_model(flags.model))
    path = find_checkpoint(flags.model)
    model = open_model(path, flags.model)
    require_every_level(model, "the likelihood")
    if model.space.grey_levels is None:
        message = f"{path} is a model of latents: its density does not give the bits per dimension of images"
        raise UserError(message, "use a `run` trained on pixels")
    levels = GreyLevels(*model.space.grey_levels)
    if flags.method == "auto":
        flags = replace(flags, method="ode" if model.spec.timesteps == 0 else "vlb")
    protocol.refuse_unused(flags.method, {"vlb": flags.vlb, "ode": flags.ode})
    method, denoiser = _method(flags, model)
    dataset = protocol.load_data_of_run(path, flags.data)
    part, indices = protocol.spread_over(dataset, flags.split, flags.num_images, FEWER)
    with Interrupts(at_once=True):
        folder = folder_in_run(path, flags.model.experiments_dir, flags.out, "evaluation")
        started = time.perf_counter()
        parts = _measure(flags, model, method, denoiser, levels, part, indices)
        seconds = time.perf_counter() - started
    if not processes.is_rank_zero():
        return
    evaluations = method.evaluations(model.noise_schedule)
    settings = {"steps": evaluations} if flags.method == "vlb" else asdict(method)
    card = {
        **protocol.model_card(path, flags.model),
        **protocol.data_card(dataset, flags.split, {"images": "evenly spaced"}, part),
        "labels": "each image's own" if model.spec.classes else "none",
        "method": flags.method,
        **settings,
        "clip": denoiser is not model.denoiser,
        "seed": flags.seed,
        "batch_size": flags.batch_size,
    }
    results = _results(parts, part, bool(model.spec.classes), evaluations, seconds)
    print(protocol.write_report(folder, "likelihood", card, results, _table(results)))


def _method(flags: LikelihoodFlags, model: Model) -> tuple[Method, Denoiser]:
    """Return the checked method and the denoiser that it evaluates. Raises UserError.

    The variational bound clips the clean estimate, as samplers do. The ODE does not, because a flow with clipped
    estimates has no inverse.
    """
    denoiser = model.denoiser
    method: Method = SpreadDensity(**vars(flags.ode))
    if flags.method == "vlb":
        method = VariationalBound(**vars(flags.vlb))
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
    indices: list[int],
) -> Parts:
    """Measure all images in batches, which limits memory use, and print the progress."""
    device, dimensions = torch.device(flags.model.device), math.prod(part.images.shape[1:])
    batches: list[Parts] = []

    def measure(rows: slice) -> Parts:
        clean = model.space.encode(part.images[rows].to(device))
        images = Images(clean, indices[rows], flags.seed, model.spec.initial_noise)
        label = part.labels[rows].to(device) if model.spec.classes else None
        return method.nats(denoiser, model.noise_schedule, images, label, levels)

    def summary(done: int) -> str:
        bits = bits_per_dimension(torch.cat([_total(batch) for batch in batches]), dimensions)
        return f"{bits.mean():.4f} bits per dimension"

    for batch in protocol.in_batches(measure, len(part), flags.batch_size, summary):
        refuse_infinite(_total(batch))
        batches.append(batch)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _total(parts: Parts) -> Tensor:
    return torch.stack(list(parts.values())).sum(0)


def _results(parts: Parts, part: Split, labelled: bool, evaluations: int, seconds: float) -> dict[str, Any]:
    nats, dimensions = _total(parts), math.prod(part.images.shape[1:])
    levels = f"8-bit {'grey' if part.images.shape[1] == 1 else 'colour'} levels"
    several = parts if len(parts) > 1 else {}
    return {
        "bits_per_dimension": protocol.mean_estimate(bits_per_dimension(nats, dimensions)),
        "of": f"{levels}, given the label" if labelled else levels,
        "bound": "upper",
        "parts": {
            name: protocol.mean_estimate(bits_per_dimension(values, dimensions)) for name, values in several.items()
        },
        "nats_per_image": protocol.mean_estimate(nats),
        "dimensions": dimensions,
        "images": len(part),
        "evaluations_per_image": evaluations,
        "seconds": round(seconds, 3),
        "seconds_per_image": round(seconds / len(part), 6),
    }


def _table(results: dict[str, Any]) -> str:
    lines = [
        f"{protocol.format_estimate(results['bits_per_dimension'])} bits per dimension of {results['of']}",
        f"an upper bound on -log2 p(image{'|label' if 'label' in results['of'] else ''}) / {results['dimensions']}, "
        f"mean of {results['images']} images with its 95 % interval",
        f"nats per image: {protocol.format_estimate(results['nats_per_image'], 2)}",
        *(
            f"  {protocol.format_estimate(part)} bits: {MEANINGS_OF_PARTS[name]}"
            for name, part in results["parts"].items()
        ),
        f"network evaluations per image: {results['evaluations_per_image']}",
        f"seconds per image: {results['seconds_per_image']:.4f}",
    ]
    return "\n".join(lines)
