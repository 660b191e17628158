"""The work of `evaluate --task bayes`: measure a denoiser or an autoencoder as a classifier by Bayes' rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from data import ImageData, Split
from models import processes
from models.autoencoders.autoencoder import load_autoencoder
from models.errors import UserError
from models.evaluation.bayes import Denoising, Likelihood, Method, Posterior
from models.evaluation.gaussians import ClassGaussians
from models.evaluation.images import Images
from models.evaluation.recognition import confusion_counts
from models.evaluation.statistics import wilson_interval
from models.evaluation.text_tables import text_table
from models.model import require_every_level
from models.runs.yaml_files import plain
from models.spaces import ImageRows
from models.spaces.encoded import encode_images
from models.training.interrupts import Interrupts
from scripts.tasks import protocol
from scripts.tasks.sampling import find_checkpoint, folder_in_run, open_model, resolve_model

if TYPE_CHECKING:
    from scripts.cli.evaluation_flags import BayesFlags

Classify = Callable[[Tensor, Sequence[int]], Posterior]  # Takes uint8 images and their indices in the split.


def main(flags: BayesFlags) -> None:
    flags = replace(flags, model=resolve_model(flags.model))
    path = find_checkpoint(flags.model)
    is_autoencoder = "autoencoder" in protocol.stored_facts(path)
    if flags.method == "auto":
        flags = replace(flags, method="gaussians" if is_autoencoder else "denoising")
    if is_autoencoder != (flags.method == "gaussians"):
        kind = "an autoencoder" if is_autoencoder else "a denoiser"
        raise UserError(f"`method` {flags.method}: {path} is {kind}", "leave out `method`", "use another `run`")
    options = {"denoising": flags.errors, "likelihood": flags.ode, "gaussians": flags.gaussians}
    protocol.refuse_unused(flags.method, options)
    classifier = _latent_classifier(flags, path) if is_autoencoder else _denoiser_classifier(flags, path)
    dataset = protocol.load_data_of_run(path, flags.data)
    part = protocol.part_of(dataset, flags.split, flags.first_image, flags.num_images)
    log_prior = _log_prior(flags, dataset)
    with Interrupts(at_once=True):
        classify = classifier.fit(dataset, log_prior)
        folder = folder_in_run(path, flags.model.experiments_dir, flags.out, "evaluation")
        started = time.perf_counter()
        posterior = _classify(flags, classify, part)
        seconds = time.perf_counter() - started
    if not processes.is_rank_zero():
        return
    card = {
        **protocol.model_card(path, flags.model),
        **protocol.data_card(dataset, flags.split, {"first_image": flags.first_image}, part),
        "method": flags.method,
        **classifier.settings,
        "prior": flags.prior,
        "seed": flags.seed,
        "batch_size": flags.batch_size,
    }
    results = _results(posterior, part.labels, flags.first_image, seconds)
    print(protocol.write_report(folder, "bayes", card, results, _table(results, dataset.class_names)))


class _Classifier(NamedTuple):
    """A method of classification. settings: for the report. fit(data set, log-prior (K,)): returns a `Classify`."""

    settings: dict[str, Any]
    fit: Callable[[ImageData, Tensor], Classify]


def _denoiser_classifier(flags: BayesFlags, path: Path) -> _Classifier:
    """Build the classifier of a denoiser. Raises UserError if the model has no labels or does not fit the settings."""
    method: Method = Denoising(**vars(flags.errors))
    if flags.method == "likelihood":
        method = Likelihood(**vars(flags.ode))
    model = open_model(path, flags.model)
    require_every_level(model, "classification by Bayes' rule")
    if model.spec.classes == 0:
        raise UserError(f"{path} is a model without labels: p(x|y) needs a conditional run", "use another `run`")
    method.check(model.noise_schedule, model.space.shape, model.spec.initial_noise)

    def fit(dataset: ImageData, log_prior: Tensor) -> Classify:
        def classify(images: Tensor, indices: Sequence[int]) -> Posterior:
            clean = model.space.encode(images.to(flags.model.device))
            seeded = Images(clean, indices, flags.seed, model.spec.initial_noise)
            return method.classify(model.denoiser, model.noise_schedule, seeded, log_prior, flags.batch_size)

        return classify

    return _Classifier(plain(asdict(method)), fit)


def _latent_classifier(flags: BayesFlags, path: Path) -> _Classifier:
    model = load_autoencoder(path, flags.model.weights)
    device = torch.device(flags.model.device)
    model.network.to(device)

    def latents(images: ImageRows) -> Tensor:
        """Return the posterior means of the images, (N, D)."""
        return encode_images(model, images, flips=False, device=device).posterior.chunk(2, dim=1)[0].flatten(1)

    def fit(dataset: ImageData, log_prior: Tensor) -> Classify:
        train = latents(dataset.train.images)
        gaussians = ClassGaussians.fit(train, dataset.train.labels, len(log_prior), **asdict(flags.gaussians))

        def classify(images: Tensor, indices: Sequence[int]) -> Posterior:
            log_posterior = gaussians.log_posterior(latents(images), log_prior)
            # No denoiser is evaluated. The encoder is evaluated once per image, for all classes together.
            return Posterior(
                log_posterior, log_posterior.argmax(1), torch.zeros(log_posterior.shape, dtype=torch.int64)
            )

        return classify

    return _Classifier({**asdict(flags.gaussians), "latent_shape": list(model.latent_shape)}, fit)


def _log_prior(flags: BayesFlags, dataset: ImageData) -> Tensor:
    """Return log p(y), (K,). A class without training images counts as having one. Raises UserError without labels."""
    if not dataset.class_names:
        raise UserError(f"{dataset.name} has no labels to compare predictions with")
    if len(dataset.class_names) == 1:
        raise UserError(f"{dataset.name} has one class, so there is nothing to classify")
    counts = torch.ones(len(dataset.class_names), dtype=torch.float64)
    if flags.prior == "train":
        counts = torch.bincount(dataset.train.labels, minlength=len(counts)).double().clamp(min=1)
    return (counts / counts.sum()).log()


def _classify(flags: BayesFlags, classify: Classify, part: Split) -> Posterior:
    """Classify all images in batches, which limits memory use, and print the progress."""
    posteriors: list[Posterior] = []
    right = 0

    def classify_rows(rows: slice) -> tuple[Posterior, int]:
        indices = list(range(flags.first_image + rows.start, flags.first_image + rows.stop))
        posterior = classify(part.images[rows], indices)
        return posterior, int((posterior.prediction == part.labels[rows]).sum())

    def summary(done: int) -> str:
        return f"{100 * right / done:.2f} % right"

    for posterior, right_in_batch in protocol.in_batches(classify_rows, len(part), flags.batch_size, summary):
        posteriors.append(posterior)
        right += right_in_batch
    return Posterior(*(torch.cat(tensors) for tensors in zip(*posteriors, strict=True)))


def _results(posterior: Posterior, labels: Tensor, first: int, seconds: float) -> dict[str, Any]:
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
    low, high = results["interval_95"]
    lines = [
        f"accuracy {100 * results['accuracy']:.2f} % [{100 * low:.2f}, {100 * high:.2f}] "
        f"({results['right']} of {results['images']} right; 95 % Wilson interval)",
        f"cross-entropy of the posterior: {results['cross_entropy']:.4f} nats",
        f"network evaluations per class and image: {results['evaluations_per_class_and_image']:.2f} on average, "
        f"at most {results['most_evaluations_per_class_and_image']}",
        f"seconds per image: {results['seconds_per_image']:.4f}",
        "",
    ]
    rows = []
    for label, (name, counts) in enumerate(zip(names, results["confusion"], strict=True)):
        mistakes = [f"{names[other]} {count}" for other, count in enumerate(counts) if count and other != label]
        share = f"{100 * counts[label] / sum(counts):.2f} %" if sum(counts) else "-"
        rows.append((name, str(sum(counts)), share, ", ".join(mistakes)))
    return "\n".join([*lines, text_table(rows, ("class", "images", "right", "mistaken for"), right=(1, 2))])
