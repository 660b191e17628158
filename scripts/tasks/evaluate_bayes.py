"""`evaluate --task bayes`: how well a conditional model classifies, by Bayes' rule from its own densities."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import tyro
from torch import Tensor

from data import ImageData, Split
from models import processes
from models.autoencoders.autoencoder import load_autoencoder
from models.errors import UserError
from models.evaluation.bayes import WEIGHTINGS, Denoising, Likelihood, Method, Posterior
from models.evaluation.gaussians import ClassGaussians
from models.evaluation.images import Images
from models.evaluation.recognition import confusion_counts
from models.evaluation.statistics import wilson_interval
from models.spaces import ImageRows
from models.spaces.encoded import encode_images
from models.training.interrupts import Interrupts
from scripts.cli.arguments import check_positive, parse_flags
from scripts.cli.flags import ModelFlags, SourceFlags, one_of
from scripts.tasks.protocol import (
    data_card,
    in_batches,
    load_data_of_run,
    model_card,
    part_of,
    report_folder,
    stored_facts,
    write_report,
)
from scripts.tasks.sampling import find_checkpoint, open_model, resolve_model

DESCRIPTION = "Classify images by p(x|y) p(y) of a trained run. Prints the report's path."
USUAL_COUNT = 1000
METHODS = ("auto", "denoising", "likelihood", "gaussians")
PRIORS = ("uniform", "train")


@dataclass(frozen=True)
class ErrorFlags:
    """Of --method denoising."""

    draws: int = 50
    """Network evaluations per class and image, at most; the same noise for all classes."""
    weighting: Annotated[str, one_of(WEIGHTINGS)] = "sigmoid"
    """How errors count by time: as in the variational bound (scores are then in nats), as in that with fine detail
    counting less (sigmoid), or the plain error of the flow's slope, of the noise or of the clean estimate."""
    time_range: tuple[float, float] = (0.3, 0.9)
    """Noise from here to there, as flow times sigma / (alpha + sigma)."""
    first_round: int = 8
    """Draws before the first classes are dropped; later rounds double."""
    patience: float = 2.5
    """A class is dropped once it is this many standard errors worse than the best; 0 drops none."""


@dataclass(frozen=True)
class OdeFlags:
    """Of --method likelihood."""

    ode_steps: int = 12
    """Steps of the probability-flow ODE, two network evaluations each."""
    first_time: float = 0.2
    """Noise on the image whose density is taken, as a flow time; 0 for the image itself."""
    probes: int = 4
    """Random probes of the divergence, fixed along a solve; 0 for the exact trace, for small latents."""


@dataclass(frozen=True)
class GaussiansFlags:
    """Of --method gaussians."""

    shrinkage: float = 0.1
    """Share of the covariance that all classes have in common in that of each."""
    diagonal: bool = False
    """No covariances between latent dimensions."""


@dataclass(frozen=True)
class BayesFlags:
    """Settings of `evaluate --task bayes`."""

    task: str = "bayes"
    """This task."""
    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    split: str = "test"
    """test or train."""
    first_image: int = 0
    """Number of the first image in the split."""
    num_images: int | None = None
    """How many images; 0 for all. Default: 1000, or as many as there are."""
    method: Annotated[str, one_of(METHODS)] = "auto"
    """denoising: the class whose label lets the denoiser find the image best; quick. likelihood: the density itself, by
    the change of variables along the probability-flow ODE; dear. gaussians: one Gaussian for each class in the latents
    of an autoencoder's run. auto: denoising, or gaussians for an autoencoder."""
    errors: tyro.conf.OmitArgPrefixes[ErrorFlags] = field(default_factory=ErrorFlags)
    ode: tyro.conf.OmitArgPrefixes[OdeFlags] = field(default_factory=OdeFlags)
    gaussians: tyro.conf.OmitArgPrefixes[GaussiansFlags] = field(default_factory=GaussiansFlags)
    prior: Annotated[str, one_of(PRIORS)] = "uniform"
    """p(y): every class alike, or its share of the training split."""
    seed: int = 0
    """What an image is shown depends on the seed and its number alone, whatever the batch size."""
    batch_size: int = 256
    """Images per network call, and images classified at a time."""
    out: str | None = None
    """Folder for the report. Default: evaluation/ in the run."""


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, BayesFlags(), "evaluate", DESCRIPTION)
    _check(flags)
    flags = replace(flags, model=resolve_model(flags.model))
    path = find_checkpoint(flags.model)
    of_autoencoder = "autoencoder" in stored_facts(path)
    if flags.method == "auto":
        flags = replace(flags, method="gaussians" if of_autoencoder else "denoising")
    if of_autoencoder != (flags.method == "gaussians"):
        kind = "an autoencoder" if of_autoencoder else "a denoiser"
        raise UserError(f"--method {flags.method}: {path} is {kind}; leave it out, or take another run")
    classifier = _latent_classifier(flags, path) if of_autoencoder else _denoiser_classifier(flags, path)
    dataset = load_data_of_run(path, flags.data)
    part = part_of(dataset, flags.split, flags.first_image, flags.num_images, USUAL_COUNT)
    log_prior = _log_prior(flags, dataset)
    with Interrupts(at_once=True):
        classify = classifier.fit(dataset, log_prior)
        folder = report_folder(path, flags.out)
        started = time.perf_counter()
        posterior = _classify(flags, classify, part)
        seconds = time.perf_counter() - started
    if not processes.is_rank_zero():
        return
    card = {
        **model_card(path, flags.model),
        **data_card(dataset, flags.split, {"first_image": flags.first_image}, part),
        "method": flags.method,
        **classifier.settings,
        "prior": flags.prior,
        "seed": flags.seed,
        "batch_size": flags.batch_size,
    }
    results = _results(posterior, part.labels, flags.first_image, seconds)
    print(write_report(folder, "bayes", card, results, _table(results, dataset.class_names)))


Classify = Callable[[Tensor, Sequence[int]], Posterior]


class _Classifier(NamedTuple):
    """settings: for the card. fit: data set and log-prior (K,) -> classify(uint8 images, their numbers)."""

    settings: dict[str, Any]
    fit: Callable[[ImageData, Tensor], Classify]


def _check(flags: BayesFlags) -> None:
    """Raises UserError for a value that no model could have."""
    check_positive(flags, "batch_size")
    for flag, value, known in (("method", flags.method, METHODS), ("prior", flags.prior, PRIORS)):
        if value not in known:
            raise UserError(f"--{flag} {value}: choose from {', '.join(known)}")


def _denoiser_classifier(flags: BayesFlags, path: Path) -> _Classifier:
    """Raises UserError for a run without labels, or settings that do not fit it."""
    errors, ode = flags.errors, flags.ode
    method: Method = Denoising(errors.draws, errors.weighting, *errors.time_range, errors.first_round, errors.patience)
    if flags.method == "likelihood":
        method = Likelihood(ode.ode_steps, ode.first_time, ode.probes)
    model = open_model(path, flags.model)
    if model.spec.classes == 0:
        raise UserError(f"{path} is a model without labels: bayes needs p(x|y) of a conditional run")
    method.check(model.noise_schedule, model.space.shape, model.spec.initial_noise)

    def fit(dataset: ImageData, log_prior: Tensor) -> Classify:
        def classify(images: Tensor, numbers: Sequence[int]) -> Posterior:
            clean = model.space.encode(images.to(flags.model.device))
            shown = Images(clean, numbers, flags.seed, model.spec.initial_noise)
            return method.classify(model.denoiser, model.noise_schedule, shown, log_prior, flags.batch_size)

        return classify

    return _Classifier(asdict(method), fit)


def _latent_classifier(flags: BayesFlags, path: Path) -> _Classifier:
    model = load_autoencoder(path, flags.model.weights)
    device = torch.device(flags.model.device)
    model.network.to(device)

    def latents(images: ImageRows) -> Tensor:
        """(N, D) means of the posterior."""
        return encode_images(model, images, flips=False, device=device).posterior.chunk(2, dim=1)[0].flatten(1)

    def fit(dataset: ImageData, log_prior: Tensor) -> Classify:
        train = latents(dataset.train.images)
        gaussians = ClassGaussians.fit(train, dataset.train.labels, len(log_prior), **asdict(flags.gaussians))

        def classify(images: Tensor, numbers: Sequence[int]) -> Posterior:
            found = gaussians.log_posterior(latents(images), log_prior)
            # The encoder's one evaluation serves every class.
            return Posterior(found, found.argmax(1), torch.zeros(found.shape, dtype=torch.int64))

        return classify

    return _Classifier({**asdict(flags.gaussians), "latent_shape": list(model.latent_shape)}, fit)


def _log_prior(flags: BayesFlags, dataset: ImageData) -> Tensor:
    """(K,); a class that the training split lacks counts as seen once. Raises UserError for unlabelled data."""
    if not dataset.class_names:
        raise UserError(f"{dataset.name} has no labels to be right or wrong about")
    counts = torch.ones(len(dataset.class_names), dtype=torch.float64)
    if flags.prior == "train":
        counts = torch.bincount(dataset.train.labels, minlength=len(counts)).double().clamp(min=1)
    return (counts / counts.sum()).log()


def _classify(flags: BayesFlags, classify: Classify, part: Split) -> Posterior:
    """All images, a batch of images at a time, so that memory is bounded and progress shows."""
    found: list[Posterior] = []
    right = 0

    def so_far(done: int) -> str:
        return f"{100 * right / done:.2f} % right"

    def classify_rows(rows: slice) -> tuple[Posterior, int]:
        numbers = list(range(flags.first_image + rows.start, flags.first_image + rows.stop))
        posterior = classify(part.images[rows], numbers)
        return posterior, int((posterior.prediction == part.labels[rows]).sum())

    for posterior, more in in_batches(classify_rows, len(part), flags.batch_size, so_far):
        found.append(posterior)
        right += more
    return Posterior(*(torch.cat(each) for each in zip(*found, strict=True)))


def _results(posterior: Posterior, labels: Tensor, first: int, seconds: float) -> dict[str, Any]:
    """Everything the report says, as plain numbers."""
    count, classes = posterior.log_posterior.shape
    right = posterior.prediction == labels
    wrong = [
        {"image": first + row, "label": int(labels[row]), "predicted": int(posterior.prediction[row])}
        for row in (~right).nonzero().flatten().tolist()
    ]
    return {
        "accuracy": right.double().mean().item(),
        "interval_95": list(wilson_interval(int(right.sum()), count)),
        "cross_entropy": -posterior.log_posterior.gather(1, labels[:, None]).mean().item(),
        "right": int(right.sum()),
        "images": count,
        "evaluations_per_class_and_image": posterior.evaluations.double().mean().item(),
        "most_evaluations_per_class_and_image": int(posterior.evaluations.max()),
        "seconds": round(seconds, 3),
        "seconds_per_image": round(seconds / count, 6),
        "confusion": confusion_counts(labels, posterior.prediction, classes).tolist(),
        "wrong": wrong,
    }


def _table(results: dict[str, Any], names: tuple[str, ...]) -> str:
    """The results for people: accuracy, cost, each class, and who was taken for whom."""
    low, high = results["interval_95"]
    lines = [
        f"accuracy {100 * results['accuracy']:.2f} % [{100 * low:.2f}, {100 * high:.2f}] "
        f"({results['right']} of {results['images']} right; 95 % Wilson interval)",
        f"cross-entropy of the posterior: {results['cross_entropy']:.4f} nats",
        f"network evaluations per class and image: {results['evaluations_per_class_and_image']:.2f} on average, "
        f"at most {results['most_evaluations_per_class_and_image']}",
        f"seconds per image: {results['seconds_per_image']:.4f}",
        "",
        "class, its images, share that is right, what the others were taken for",
        "",
    ]
    width = max(len(name) for name in names)
    for label, (name, row) in enumerate(zip(names, results["confusion"], strict=True)):
        others = [f"{names[taken]} {n}" for taken, n in enumerate(row) if n and taken != label]
        share = f"{100 * row[label] / sum(row):6.2f} %" if sum(row) else "       -"
        lines.append(f"{name:<{width}}  {sum(row):>6}  {share}  {', '.join(others)}".rstrip())
    return "\n".join(lines)
