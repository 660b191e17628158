"""Train a classifier, whose features `evaluate` uses to compare images, or verify the accuracy of an existing one."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import tyro

from models.errors import UserError
from models.evaluation.classifier_settings import ClassifierSettings
from models.places import experiments_dir
from scripts.cli.command import run_command
from scripts.cli.flags import VARIANTS, DatasetName, SourceFlags
from scripts.cli.settings import read_flags
from scripts.cli.signatures import names_in

DESCRIPTION = "Train a feature network for evaluate, or verify one. Prints its file."


@dataclass(frozen=True)
class ClassifierFlags:
    """Settings of `train_classifier`."""

    variants: ClassVar = {"dataset": VARIANTS["dataset"]}

    dataset: DatasetName = "digits"
    """Data set with classes. digits: built in. folder: your own images."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    settings: tyro.conf.OmitArgPrefixes[ClassifierSettings] = field(default_factory=ClassifierSettings)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder with the cached classifiers. The variable EXPERIMENTS_DIR sets its default."""
    out: str | None = None
    """File to write. Default: the cache file in which evaluate looks for a classifier with these settings."""
    verify_only: bool = False
    """Do not train. Measure the test accuracy of the network in models/pretrained, or of --file. Fail if it is lower
    than the accuracy that its file states."""
    file: str | None = None
    """File of the network to verify."""


def main(argv: list[str]) -> None:
    flags = read_flags(argv, ClassifierFlags(), "train_classifier", DESCRIPTION)
    networks = names_in("models.evaluation.feature_networks", "NETWORKS")
    if flags.settings.network not in networks:
        raise UserError(f"`network` {flags.settings.network}: choose from {', '.join(networks)}")
    if flags.out is not None and flags.verify_only:
        raise UserError("`out`: `verify_only` writes no file", "leave it out, and name the network to verify by `file`")
    if flags.file is not None and not flags.verify_only:
        raise UserError("`file`: only `verify_only` reads a network", "name the file to write by `out`")
    from scripts.tasks.classifier_training import train_or_verify

    print(train_or_verify(flags))


if __name__ == "__main__":
    run_command(main)
