"""Train a classifier of a data set, or measure one again. `evaluate` compares images in its features."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import tyro

from models import devices
from models.errors import UserError
from models.evaluation import classifier as classifiers
from models.evaluation.classifier import Classifier, Schooling, Subject
from models.evaluation.feature_networks import NETWORKS
from models.evaluation.statistics import wilson_interval
from models.ranges import NonNegative, Positive, PositiveInt
from models.training.interrupts import Interrupts
from scripts.cli.arguments import parse_flags
from scripts.cli.command import run_command
from scripts.cli.flags import VARIANTS, DatasetName, SourceFlags, experiments_dir, one_of
from scripts.cli.terminal import tell
from scripts.tasks.extractors import KEPT_CLASSIFIERS, subject_of
from scripts.tasks.sampling import make_folder
from scripts.tasks.training import load_data

DESCRIPTION = "Train a feature network for evaluate, or measure one again. Prints its file."


@dataclass(frozen=True)
class ClassifierFlags:
    """Settings of `train_classifier`."""

    variants: ClassVar = {"dataset": VARIANTS["dataset"]}

    dataset: DatasetName = "digits"
    """Data set with classes; digits is built in, folder is your own images."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    network: Annotated[str, one_of(NETWORKS)] = "convnet"
    """Network to train."""
    width: PositiveInt = Schooling.width
    """Channels of the first layer; the other layers grow with it."""
    epochs: Positive | None = Schooling.epochs
    """Passes over the training split. Default: 12, more for a small set."""
    batch_size: PositiveInt = Schooling.batch_size
    """Images per step."""
    lr: Positive = Schooling.lr
    """Largest learning rate of the one-cycle schedule."""
    weight_decay: NonNegative = Schooling.weight_decay
    """Weight decay of AdamW."""
    flips: bool = False
    """Train on mirrored images too, even if the data set is not mirrored for generative models."""
    seed: int = Schooling.seed
    """The same seed gives the same network on the same machine."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder in which classifiers are kept. The variable EXPERIMENTS_DIR sets its default."""
    out: str | None = None
    """File to write. Default: the file in which evaluate looks for a network of these settings."""
    verify_only: bool = False
    """Measure the network of models/pretrained, or of --file, on the test images instead of training. Fails if the
    accuracy is below the stored one."""
    file: str | None = None
    """The network to verify."""


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, ClassifierFlags(), "train_classifier", DESCRIPTION)
    _check(flags)
    device = devices.pick_device(flags.device)
    devices.prepare_device(device)
    dataset = load_data(flags)
    subject, flags = subject_of(dataset), replace(flags, flips=flags.flips or dataset.flips)
    print(_verify(flags, subject, device) if flags.verify_only else _train(flags, subject, device))


def _check(flags: ClassifierFlags) -> None:
    if flags.network not in NETWORKS:
        raise UserError(f"--network {flags.network}: choose from {', '.join(NETWORKS)}")
    if flags.out is not None and flags.verify_only:
        raise UserError("--out names the file of a trained network; name the network of --verify_only with --file")
    if flags.file is not None and not flags.verify_only:
        raise UserError("--file names the network of --verify_only; name the file to write with --out")


def _train(flags: ClassifierFlags, subject: Subject, device: torch.device) -> Path:
    words = ("network", "width", "epochs", "batch_size", "lr", "weight_decay", "flips", "seed")
    schooling = Schooling(**{word: getattr(flags, word) for word in words})
    folder = Path(flags.experiments_dir) / KEPT_CLASSIFIERS
    path = classifiers.kept_path(folder, schooling, subject.sha256) if flags.out is None else Path(flags.out)
    path = path.absolute()
    if path.suffix != ".safetensors":
        raise UserError(f"--out {path}: name a .safetensors file")
    if path.exists() or path.with_suffix(".yaml").exists():
        raise UserError(f"{path} or its .yaml is there already: name a new file with --out")
    make_folder(path.parent)
    count = len(subject.train.images)
    tell(f"{flags.network} on {count} images of {subject.name}, {schooling.epochs_for(count):g} passes")
    with Interrupts(at_once=True):
        trained = classifiers.school(schooling, subject, device, path)
    tell(_describe(trained, trained.accuracy, len(subject.test.images)))
    return path


def _verify(flags: ClassifierFlags, subject: Subject, device: torch.device) -> Path:
    """Measure a network again. Raises UserError if it is missing, of other data, or below its stored accuracy."""
    path = Path(flags.file) if flags.file is not None else classifiers.pretrained(flags.network, subject.sha256)
    if path is None:
        raise UserError(f"models/pretrained has no {flags.network} of this {subject.name}: name one with --file")
    classifier = classifiers.load_classifier(path, device)
    if classifier.facts["data_sha256"] != subject.sha256:
        raise UserError(f"{path} was trained on other data than this {subject.name}")
    accuracy = classifier.recognised(*subject.test)
    tell(_describe(classifier, accuracy, len(subject.test.images)))
    if accuracy < classifier.accuracy - 1e-9:
        raise UserError(
            f"{path} recognises {100 * accuracy:.2f} % of the test images, and claims {100 * classifier.accuracy:.2f} %"
        )
    return path


def _describe(classifier: Classifier, accuracy: float, images: int) -> str:
    low, high = wilson_interval(round(accuracy * images), images)
    return (
        f"{classifier.name}: {100 * accuracy:.2f} % [{100 * low:.2f}, {100 * high:.2f}] of {images} test images "
        f"of {classifier.facts['dataset']} recognised; claimed {100 * classifier.accuracy:.2f} %"
    )


if __name__ == "__main__":
    run_command(main)
