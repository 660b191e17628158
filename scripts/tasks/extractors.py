"""From words to feature networks: those of models/pretrained, of a file, trained for the data set, or Inception."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from data import ImageData
from models.errors import UserError
from models.evaluation.classifier import Classifier, LabelledImages, Schooling, Subject, classifier_for, load_classifier
from models.evaluation.feature_networks import NETWORKS
from models.evaluation.features import Extractor
from models.evaluation.inception import Inception
from scripts.cli.terminal import tell
from scripts.tasks.training import fingerprint

INCEPTION = "inception"
KEPT_FEATURES = ".features"  # Folder among the runs with what feature networks made of real images.
KEPT_CLASSIFIERS = ".classifiers"


def classifier_of(dataset: ImageData, experiments: Path, device: torch.device, network: str = "convnet") -> Classifier:
    """The classifier of a data set, kept among the runs where it is not in models/pretrained. Raises UserError."""
    schooling = Schooling(network, flips=dataset.flips)
    return classifier_for(experiments / KEPT_CLASSIFIERS, schooling, subject_of(dataset), device, tell)


def subject_of(dataset: ImageData) -> Subject:
    """What a classifier of the data set is to learn. Raises UserError where there are no classes."""
    if not dataset.class_names:
        raise UserError(f"{dataset.name} has no classes: there is nothing to recognise")
    train, test = (LabelledImages(split.images, split.labels) for split in (dataset.train, dataset.test))
    return Subject(dataset.name, fingerprint(dataset), train, test, len(dataset.class_names))


def find_extractors(
    words: Sequence[str], weights: str | None, dataset: ImageData, experiments: Path, device: torch.device
) -> list[Extractor]:
    """Of each word: a build, the file of a network, or inception. weights: of the last. Raises UserError."""
    if weights is not None and INCEPTION not in words:
        raise UserError("--inception_weights goes with --extractors inception")
    if not words or len(set(words)) < len(words):
        raise UserError("--extractors: give one or more, each once")
    for word in words:
        if word != INCEPTION and word not in NETWORKS and not word.endswith(".safetensors"):
            known = ", ".join((*NETWORKS, INCEPTION))
            raise UserError(f"--extractors {word}: choose from {known}, or name a .safetensors of train_classifier")
    found: dict[str, Extractor] = {}
    for word in sorted(words, key=lambda word: word in NETWORKS):  # Those that may have to be trained come last.
        if word == INCEPTION:
            found[word] = Inception(None if weights is None else Path(weights), device)
        elif word in NETWORKS:
            found[word] = classifier_of(dataset, experiments, device, word)
        else:
            found[word] = _of_file(Path(word), dataset, device)
    return [found[word] for word in words]


def _of_file(path: Path, dataset: ImageData, device: torch.device) -> Classifier:
    found = load_classifier(path, device)
    if found.facts["data_sha256"] != fingerprint(dataset):
        raise UserError(
            f"--extractors {path}: a network of {found.facts.get('dataset')}, other data than {dataset.name}"
        )
    return found
