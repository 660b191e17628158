"""Feature networks chosen on the command line: pretrained, from a file, trained for the data set, or Inception."""

from collections.abc import Sequence
from pathlib import Path

import torch

from data import ImageData, Split
from models import devices
from models.errors import UserError
from models.evaluation.classifier import Classifier, ClassifierSettings, find_or_train, load_classifier
from models.evaluation.distances import gaussian
from models.evaluation.feature_networks import NETWORKS
from models.evaluation.features import Extractor, cached_features
from models.evaluation.image_sets import LabelledImages, RealImages
from models.evaluation.inception import Inception
from models.evaluation.sample_test import SampleTest
from models.spaces import Identity
from scripts.cli.flags import TrainFlags
from scripts.cli.terminal import tell
from scripts.tasks.run_data import identity_of

INCEPTION = "inception"
FEATURES_CACHE = ".features"  # Folder in experiments_dir with the features of real images.
CLASSIFIERS_CACHE = ".classifiers"  # Folder in experiments_dir with classifiers.


def real_images(dataset: ImageData) -> RealImages:
    """Convert a data set to the type that models.evaluation takes."""

    def labelled(split: Split) -> LabelledImages:
        return LabelledImages(split.images, split.labels, identity_of(split))

    return RealImages(dataset.name, dataset.class_names, dataset.flips, labelled(dataset.train), labelled(dataset.test))


def classes_to_learn(dataset: ImageData) -> RealImages:
    """Return `real_images` for training a classifier. Raises UserError if the data set has no classes."""
    if not dataset.class_names:
        raise UserError(f"{dataset.name} has no classes, so a classifier cannot be trained on it")
    return real_images(dataset)


def classifier_of(dataset: ImageData, experiments: Path, device: torch.device, network: str = "convnet") -> Classifier:
    """Return a data set's pretrained, cached or newly trained classifier. Raises UserError for data without classes."""
    settings = ClassifierSettings(network, flips=dataset.flips)
    return find_or_train(experiments / CLASSIFIERS_CACHE, settings, classes_to_learn(dataset), device, tell)


def find_extractors(
    names: Sequence[str], weights: str | None, dataset: ImageData, experiments: Path, device: torch.device
) -> list[Extractor]:
    """Return a feature network for each name: an architecture, the file of a classifier, or inception.

    weights: file with the weights of Inception. If None, the file is downloaded. Raises UserError.
    """
    if weights is not None and INCEPTION not in names:
        raise UserError("`inception_weights` needs `extractors inception`")
    if not names or len(set(names)) < len(names):
        raise UserError("`extractors`: name one or more networks, each once")
    for name in names:
        if name != INCEPTION and name not in NETWORKS and not name.endswith(".safetensors"):
            choices = ", ".join((*NETWORKS, INCEPTION))
            raise UserError(
                f"`extractors` {name}: choose from {choices}, or name a .safetensors file of train_classifier"
            )
    if INCEPTION in names and dataset.train.images.shape[1] == 4:
        raise UserError("`extractors` inception: takes images without transparency", "use `extractors` convnet")
    extractors: dict[str, Extractor] = {}
    for name in sorted(names, key=lambda name: name in NETWORKS):  # Load files first: training may take minutes.
        if name == INCEPTION:
            extractors[name] = Inception(None if weights is None else Path(weights), device)
        elif name in NETWORKS:
            extractors[name] = classifier_of(dataset, experiments, device, name)
        else:
            extractors[name] = _load_for(dataset, Path(name), device)
    return [extractors[name] for name in names]


def _load_for(dataset: ImageData, path: Path, device: torch.device) -> Classifier:
    """Load a classifier from its file. Raises UserError if it was trained on other data."""
    classifier = load_classifier(path, device)
    if not identity_of(dataset.train).matches(Identity.from_facts(classifier.facts, "data_")):
        images = f"{classifier.facts.get('dataset')}, whose images differ from those of {dataset.name}"
        raise UserError(f"`extractors` {path}: trained on {images}")
    return classifier


def build_sample_test(flags: TrainFlags, dataset: ImageData) -> SampleTest:
    """Build the test that measures samples during training. A missing classifier is trained first. Raises UserError."""
    if not dataset.class_names:
        raise UserError(
            f"`eval_samples` {flags.sample_test.eval_samples}: {dataset.name} has no classes to train a classifier on"
        )
    experiments = Path(flags.run.experiments_dir)
    device = torch.device(flags.run.device)
    extractor = classifier_of(dataset, experiments, device)
    key = identity_of(dataset.train).key
    train = cached_features(extractor, dataset.train.images, key, experiments / FEATURES_CACHE)
    features = train.on(devices.measuring_device(device)).features
    return SampleTest(extractor, gaussian(features), flags.sample_test.eval_samples)
