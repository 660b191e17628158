"""Train a classifier of a data set, in whose features `evaluate` compares images, or measure a classifier again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_type_hints

import torch
import tyro

from models import devices
from models.errors import UserError
from models.evaluation import classifier as classifiers
from models.evaluation.classifier import Classifier, ClassifierSettings
from models.evaluation.feature_networks import NETWORKS
from models.evaluation.image_sets import RealImages
from models.evaluation.statistics import wilson_interval
from models.ranges import NonNegative, Positive, PositiveInt, check_ranges
from models.training.interrupts import Interrupts
from scripts.cli.arguments import parse_flags
from scripts.cli.command import run_command
from scripts.cli.flags import VARIANTS, DatasetName, SourceFlags, experiments_dir, one_of
from scripts.cli.terminal import tell
from scripts.tasks.extractors import CLASSIFIERS_CACHE, classes_to_learn
from scripts.tasks.sampling import make_folder
from scripts.tasks.training import load_data

DESCRIPTION = "Train a feature network for evaluate, or measure one again. Prints its file."


@dataclass(frozen=True)
class ClassifierFlags:
    """Settings of `train_classifier`."""

    variants: ClassVar = {"dataset": VARIANTS["dataset"]}

    dataset: DatasetName = "digits"
    """A data set with classes. digits needs no download; folder reads your own images."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    network: Annotated[str, one_of(NETWORKS)] = ClassifierSettings.network
    """Architecture of the network."""
    width: PositiveInt = ClassifierSettings.width
    """Channels of the first layer. The other layers of the convnet grow with it."""
    epochs: Positive | None = ClassifierSettings.epochs
    """Epochs over the training split. Default: 12, or up to 100 for a small split."""
    batch_size: PositiveInt = ClassifierSettings.batch_size
    """Images per step."""
    lr: Positive = ClassifierSettings.lr
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: NonNegative = ClassifierSettings.weight_decay
    """Weight decay of AdamW."""
    flips: bool = ClassifierSettings.flips
    """Also train on mirrored images. Always on for data sets whose models are trained on mirrored images."""
    seed: int = ClassifierSettings.seed
    """Random seed. The same seed gives the same network on the same machine."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder of runs, with the cache of classifiers. Its default is the variable EXPERIMENTS_DIR, else experiments."""
    out: str | None = None
    """File to write. Default: the file in the cache in which evaluate looks for a classifier with these settings."""
    verify_only: bool = False
    """Do not train. Measure the accuracy of the network in models/pretrained, or of --file, on the test images, and
    fail if it is lower than the file states."""
    file: str | None = None
    """File of the network to verify."""


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, ClassifierFlags(), "train_classifier", DESCRIPTION)
    _check(flags)
    device = devices.pick_device(flags.device)
    devices.prepare_device(device)
    real = classes_to_learn(load_data(flags))
    flags = replace(flags, flips=flags.flips or real.flips)
    print(_verify(flags, real, device) if flags.verify_only else _train(flags, real, device))


def _settings(flags: ClassifierFlags) -> ClassifierSettings:
    return ClassifierSettings(**{option.name: getattr(flags, option.name) for option in fields(ClassifierSettings)})


def _check(flags: ClassifierFlags) -> None:
    if flags.network not in NETWORKS:
        raise UserError(f"--network {flags.network}: choose from {', '.join(NETWORKS)}")
    check_ranges(asdict(_settings(flags)), get_type_hints(ClassifierFlags, include_extras=True))
    if flags.out is not None and flags.verify_only:
        raise UserError("--out is the file of a trained network; name the file to verify with --file")
    if flags.file is not None and not flags.verify_only:
        raise UserError("--file is the file to verify with --verify_only; name the file to write with --out")


def _train(flags: ClassifierFlags, real: RealImages, device: torch.device) -> Path:
    settings = _settings(flags)
    cache = Path(flags.experiments_dir) / CLASSIFIERS_CACHE
    path = classifiers.cached_path(cache, settings, real.train.sha256) if flags.out is None else Path(flags.out)
    path = path.absolute()
    if path.suffix != ".safetensors":
        raise UserError(f"--out {path}: name a .safetensors file")
    if path.exists() or path.with_suffix(".yaml").exists():
        raise UserError(f"{path}, or its .yaml, exists already; name a new file with --out")
    make_folder(path.parent)
    count = len(real.train)
    tell(f"training a {flags.network} on {count} images of {real.name} for {settings.epochs_for(count):g} epochs")
    with Interrupts(at_once=True):
        trained = classifiers.train_and_save(settings, real, device, path)
    tell(_describe(trained, trained.accuracy, len(real.test)))
    return path


def _verify(flags: ClassifierFlags, real: RealImages, device: torch.device) -> Path:
    """Measure a network and return its file.

    Raises UserError if the file is missing, if the network was trained on other data, or if its accuracy is lower than
    the file states.
    """
    sha256 = real.train.sha256
    path = Path(flags.file) if flags.file is not None else classifiers.pretrained_path(flags.network, sha256)
    if path is None:
        raise UserError(f"models/pretrained has no {flags.network} of this {real.name}; name a file with --file")
    classifier = classifiers.load_classifier(path, device)
    if classifier.facts["data_sha256"] != sha256:
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


if __name__ == "__main__":
    run_command(main)
