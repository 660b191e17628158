"""Trains a classifier of a data set, in whose features `evaluate` compares images; or measures one again."""

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
from models.training.interrupts import Interrupts
from models.variants import DATA_SETS
from scripts.cli.arguments import parse_flags
from scripts.cli.command import run_command
from scripts.cli.flags import VARIANTS, SourceFlags, experiments_dir, one_of
from scripts.cli.terminal import tell
from scripts.tasks.extractors import KEPT_CLASSIFIERS, subject_of
from scripts.tasks.sampling import make_folder
from scripts.tasks.training import load_data

DESCRIPTION = "Train a feature network for evaluate, or measure one again. Prints its file."


@dataclass(frozen=True)
class ClassifierFlags:
    """Settings of `train_classifier`."""

    variants: ClassVar = {"dataset": VARIANTS["dataset"]}

    dataset: Annotated[str, one_of(DATA_SETS.names())] = "digits"
    """A data set with classes; digits is built in, folder is your own images."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    network: Annotated[str, one_of(NETWORKS)] = "convnet"
    """Which of the two builds."""
    width: int = Schooling.width
    """Channels of its first layer; the others go with it."""
    epochs: float | None = Schooling.epochs
    """Passes over the training split. Default: 12, more for a small set."""
    batch_size: int = Schooling.batch_size
    """Images per step."""
    lr: float = Schooling.lr
    """Largest learning rate, of one cycle."""
    weight_decay: float = Schooling.weight_decay
    """AdamW's."""
    flips: bool = False
    """Learn from mirrored images even where the data set's flows do not."""
    seed: int = Schooling.seed
    """The same seed gives the same network on the same machine."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Where classifiers are kept; the variable EXPERIMENTS_DIR sets its default."""
    out: str | None = None
    """File to write. Default: where evaluate looks for a network of these settings, among the runs."""
    verify_only: bool = False
    """Train nothing: measure the network that lies in models/pretrained, or --file, on the test images again; fails
    below its claim."""
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
    for name in ("width", "epochs", "batch_size", "lr"):
        value = getattr(flags, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} {value}: takes more than 0")
    if not 0 <= flags.weight_decay < float("inf"):
        raise UserError(f"--weight_decay {flags.weight_decay}: takes 0 or more")
    if flags.out is not None and flags.verify_only:
        raise UserError("--out names the network that is trained; the one of --verify_only is --file")
    if flags.file is not None and not flags.verify_only:
        raise UserError("--file names the network of --verify_only; where to write is --out")


def _train(flags: ClassifierFlags, subject: Subject, device: torch.device) -> Path:
    words = ("network", "width", "epochs", "batch_size", "lr", "weight_decay", "flips", "seed")
    schooling = Schooling(**{word: getattr(flags, word) for word in words})
    kept = Path(flags.experiments_dir) / KEPT_CLASSIFIERS
    path = classifiers.kept_path(kept, schooling, subject.sha256) if flags.out is None else Path(flags.out)
    path = path.absolute()
    if path.suffix != ".safetensors":
        raise UserError(f"--out {path}: name a .safetensors file")
    if path.exists() or path.with_suffix(".yaml").exists():
        raise UserError(f"{path} is there already, or its .yaml: name a new file with --out")
    make_folder(path.parent)
    count = len(subject.train.images)
    tell(f"{flags.network} on {count} images of {subject.name}, {schooling.epochs_for(count):g} passes")
    with Interrupts(at_once=True):
        made = classifiers.school(schooling, subject, device, path)
    tell(_describe(made, made.accuracy, len(subject.test.images)))
    return path


def _verify(flags: ClassifierFlags, subject: Subject, device: torch.device) -> Path:
    """Raises UserError for a network that is not there, is of other data, or recognises less than it claims."""
    path = Path(flags.file) if flags.file is not None else classifiers.pretrained(flags.network, subject.sha256)
    if path is None:
        raise UserError(f"models/pretrained has no {flags.network} of this {subject.name}: name one with --file")
    found = classifiers.load_classifier(path, device)
    if found.facts["data_sha256"] != subject.sha256:
        raise UserError(f"{path} was trained on other data than this {subject.name}")
    accuracy = found.recognised(*subject.test)
    tell(_describe(found, accuracy, len(subject.test.images)))
    if accuracy < found.accuracy - 1e-9:
        raise UserError(
            f"{path} recognises {100 * accuracy:.2f} % of the test images and claims {100 * found.accuracy:.2f} %"
        )
    return path


def _describe(found: Classifier, accuracy: float, images: int) -> str:
    low, high = wilson_interval(round(accuracy * images), images)
    return (
        f"{found.name}: {100 * accuracy:.2f} % [{100 * low:.2f}, {100 * high:.2f}] of {images} test images "
        f"of {found.facts['dataset']} recognised; claimed {100 * found.accuracy:.2f} %"
    )


if __name__ == "__main__":
    run_command(main)
