"""The work of `train_classifier`: train a feature network on a data set, or verify an existing network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models import devices
from models.errors import UserError
from models.evaluation import classifier as classifiers
from models.evaluation.classifier import Classifier
from models.evaluation.image_sets import RealImages
from models.evaluation.statistics import wilson_interval
from models.spaces import Identity
from models.training.interrupts import Interrupts
from scripts.cli.terminal import tell
from scripts.tasks.extractors import CLASSIFIERS_CACHE, classes_to_learn
from scripts.tasks.sampling import make_folder
from scripts.tasks.training import load_data

if TYPE_CHECKING:
    from scripts.train_classifier import ClassifierFlags


def train_or_verify(flags: ClassifierFlags) -> Path:
    """Train or verify a network, and return its file. Raises UserError."""
    device = devices.pick_device(flags.device)
    devices.prepare_device(device)
    real = classes_to_learn(load_data(flags, flags.experiments_dir))
    return _verify(flags, real, device) if flags.verify_only else _train(flags, real, device)


def _train(flags: ClassifierFlags, real: RealImages, device: torch.device) -> Path:
    settings = replace(flags.settings, flips=flags.settings.flips or real.flips)
    cache = Path(flags.experiments_dir) / CLASSIFIERS_CACHE
    path = classifiers.cached_path(cache, settings, real.train.identity.key) if flags.out is None else Path(flags.out)
    path = path.absolute()
    if path.suffix != ".safetensors":
        raise UserError(f"`out` {path}: name a .safetensors file")
    if path.exists() or path.with_suffix(".yaml").exists():
        raise UserError(f"{path}, or its .yaml, exists already", "name a new file with `out`")
    make_folder(path.parent)
    count = len(real.train)
    epochs = settings.epochs_for(count)
    tell(f"training a {settings.network} on {count} images of {real.name} for {epochs:g} epochs")
    with Interrupts(at_once=True):
        classifier = classifiers.train_and_save(settings, real, device, path)
    tell(_describe(classifier, classifier.accuracy, len(real.test)))
    return path


def _verify(flags: ClassifierFlags, real: RealImages, device: torch.device) -> Path:
    """Measure the accuracy of a network and return its file.

    Raises UserError if the file is missing, if the network was trained on other data, or if its accuracy is lower than
    the file states.
    """
    data, network = real.train.identity, flags.settings.network
    path = Path(flags.file) if flags.file is not None else classifiers.pretrained_path(network, data.sha256)
    if path is None:
        raise UserError(
            f"models/pretrained has no {network} trained on these images of {real.name}", "name a file with `file`"
        )
    classifier = classifiers.load_classifier(path, device)
    if not data.matches(Identity.from_facts(classifier.facts, "data_")):
        raise UserError(f"{path} was trained on other data than this {real.name}")
    accuracy = classifier.accuracy_on(real.test)
    tell(_describe(classifier, accuracy, len(real.test)))
    if accuracy < classifier.accuracy - 1e-9:
        measured, stated = (f"{100 * share:.2f} %" for share in (accuracy, classifier.accuracy))
        raise UserError(f"{path} recognises {measured} of the test images, but the file states {stated}")
    return path


def _describe(classifier: Classifier, accuracy: float, images: int) -> str:
    low, high = wilson_interval(round(accuracy * images), images)
    return (
        f"{classifier.name}: {100 * accuracy:.2f} % [{100 * low:.2f}, {100 * high:.2f}] of {images} test images "
        f"of {classifier.facts['dataset']} recognised; the file states {100 * classifier.accuracy:.2f} %"
    )
