"""Evaluation of samples. Each measure has a floor: its value for real images, usually for equally many test images."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.evaluation import measures
from models.evaluation.classifier import Classifier
from models.evaluation.distances import Gaussian, frechet_distance, gaussian
from models.evaluation.features import Extractor
from models.evaluation.image_sets import LabelledImages, Samples
from models.evaluation.memorisation import Memorisation, memorisation
from models.evaluation.neighbours import distance_to
from models.evaluation.protocol import Protocol
from models.evaluation.recognition import confusion_counts, histogram_distance
from models.evaluation.statistics import Measurement, mean_interval, resampled_counts, share_measurement
from models.progress import progress

MANY_NEAR_COPIES = 0.04  # Warn if the share of near copies exceeds that of the test images by more than this.


@dataclass
class Evaluation:
    """Measurements of one set of samples. measurements, floors: by name of the measure.

    without_ratio: distances that must not be divided by their floor, because the covariance is singular or the floor
    has fewer images than the samples. confusion: (classes, classes) counts of the first classifier. pixels:
    memorisation in pixels. remoteness: (N,) distances to the k-th nearest image of `Reference.paired`, in the features
    of the first network.
    """

    protocol: Protocol
    samples: Samples
    measurements: dict[str, Measurement] = field(default_factory=dict)
    floors: dict[str, Measurement] = field(default_factory=dict)
    without_ratio: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    confusion: Tensor | None = None
    pixels: Memorisation | None = None
    remoteness: Tensor | None = None

    def measure(self, classification_accuracy: bool = False) -> None:
        """Compute all measures. classification_accuracy: also measure this score, which trains two classifiers."""
        real, settings = self.protocol.real, self.protocol.settings
        self._warn_of_input()
        for extractor in self.protocol.extractors:
            self._measure_in(extractor)
        if classification_accuracy:
            self._measure_classification_accuracy()
        sets, device = (self.samples.images, real.train.images[:], real.test.images[:]), self.protocol.measuring
        self.pixels = self._measure_memory("pixels", *(images.flatten(1).to(device) for images in sets))
        floor = real.test.images[self.protocol.floor_rows(len(self.samples.images))]
        self.measurements.update(measures.grey_measures(self.samples.images, settings))
        self.floors.update(measures.grey_measures(floor, settings))
        if int(self.samples.images.max()) <= 1:
            self.warnings.append("no pixel is above 1 of 255: images in 0..1 were converted to uint8 without scaling")

    def _warn_of_input(self) -> None:
        real, labels = self.protocol.real, self.samples.labels
        count, tests = len(self.samples.images), len(real.test)
        if count > tests:
            self.warnings.append(
                f"{count} images, but the floor has only {tests}, the number of test images: distances decrease "
                f"with the number of images, so measure {tests} images to compare them with the floor"
            )
        known = set(real.train.labels.tolist()) if real.class_names else set()
        if missing := len(known - set(labels.tolist())) if labels is not None else 0:
            were = "class was not asked for, but the training images have it"
            several = "classes were not asked for, but the training images have them"
            self.warnings.append(f"{missing} {were if missing == 1 else several}")
        if not self.protocol.extractors:
            self.warnings.append(
                f"{real.name} has no classes, so no feature network can be trained on it: use the extractor inception"
            )

    def _measure_in(self, extractor: Extractor) -> None:
        protocol, settings, name = self.protocol, self.protocol.settings, extractor.name
        output = protocol.sample_features(extractor, self.samples.images)
        train, test = protocol.train_features(extractor), protocol.test_features(extractor)
        count, width = output.features.shape
        rows = protocol.floor_rows(count)
        self.warnings += measures.covariance_warnings(count, width, name)
        if count <= width or count > len(rows):
            self.without_ratio.add(f"fd_{name}")
        if settings.extrapolate and count <= measures.MIN_LIMIT_RATIO * width:
            least = measures.MIN_LIMIT_RATIO * width
            self.warnings.append(f"fd_limit was not measured: it needs more than {least} images")
        if isinstance(extractor, Classifier):
            self._recognise(name, output.predictions, test.predictions[rows], rows)
        with progress(f"measures of {count:,} images", None):
            reference = measures.Reference.of(train.features, count, settings.seed)
            measured = measures.measure_features(output, reference, name, settings)
            self.measurements.update(measured)
            self.floors.update(protocol.floor(extractor, reference, count, measured))
            self._measure_shares(name, train.features, reference.moments, rows)
        self._measure_memory(name, output.features, train.features, test.features)
        if self.remoteness is None:
            self.remoteness = distance_to(output.features, reference.paired, settings.k)

    def _recognise(self, name: str, predictions: Tensor, floor_predictions: Tensor, rows: Tensor) -> None:
        """Compare predicted with requested classes, and the shares of predicted classes with the training labels."""
        real, settings, labels = self.protocol.real, self.protocol.settings, self.samples.labels
        classes = len(real.class_names)
        if labels is not None:
            counts = resampled_counts(len(labels), settings.draws, settings.seed)
            self.measurements[f"recognised_{name}"] = share_measurement(predictions == labels, counts)
            self.floors[f"recognised_{name}"] = share_measurement(floor_predictions == real.test.labels[rows])
            if self.confusion is None:
                self.confusion = confusion_counts(labels, predictions, classes)
        for target, classified in ((self.measurements, predictions), (self.floors, floor_predictions)):
            distance = histogram_distance(classified, real.train.labels, classes)
            target[f"class_shares_{name}"] = Measurement(distance)

    def _measure_shares(self, name: str, train: Tensor, reference: Gaussian, rows: Tensor) -> None:
        """Measure the distance from the training images to the same images reweighted to the requested class shares."""
        real, labels = self.protocol.real, self.samples.labels
        if labels is None or train.shape[1] > measures.WIDE:
            return
        classes = len(real.class_names)
        available = torch.bincount(real.train.labels, minlength=classes).double()
        for target, classes_asked in ((self.measurements, labels), (self.floors, real.test.labels[rows])):
            counts = torch.bincount(classes_asked, minlength=classes) * (available > 0)
            weights = (counts * len(train) / counts.sum() / available)[real.train.labels]
            distance = frechet_distance(gaussian(train, weights), reference)
            target[f"fd_shares_{name}"] = Measurement(max(0.0, distance))
        shares_alone = self.measurements[f"fd_shares_{name}"].value
        if shares_alone > self.floors[f"fd_{name}"].value:
            self.warnings.append(
                "the classes were asked for in other shares than those of the training images; real images in these "
                f"shares would have a fd_{name} of {shares_alone:.4g}, more than the floor. By default, evaluate "
                "generates images in the shares of the training images"
            )

    def _measure_memory(self, name: str, samples: Tensor, train: Tensor, test: Tensor) -> Memorisation:
        """Measure memorisation in the space `name`, from points (N, D)."""
        squares = self.protocol.test_squares(name, test, train)
        with progress(f"nearest real images of {len(samples):,} images", None):
            comparison = memorisation(samples, train, test, squares)
        self.measurements.update(measures.memory_measures(comparison, name, self.protocol.settings))
        copies = self.measurements[f"near_copies_{name}"].value
        if copies > MANY_NEAR_COPIES + comparison.test_near_copies:
            self.warnings.append(
                f"{100 * copies:.1f} % of the images are near copies of training images, measured in {name}, but only "
                f"{100 * comparison.test_near_copies:.1f} % of the test images are: "
                "the model has memorised training images"
            )
        distances = comparison.test_distances
        self.floors[f"nearest_train_{name}"] = Measurement(distances.mean().item(), *mean_interval(distances))
        self.floors[f"near_copies_{name}"] = Measurement(comparison.test_near_copies)
        self.floors[f"nearer_to_train_{name}"] = Measurement(comparison.expected)
        return comparison

    def _measure_classification_accuracy(self) -> None:
        """Measure the classification accuracy score (Ravuri & Vinyals 2019). Training images give the floor."""
        samples, protocol = self.samples, self.protocol
        if samples.labels is None:
            self.warnings.append("no classification accuracy score was measured: the images have no labels")
            return
        generated = LabelledImages(samples.images, samples.labels)
        self.measurements["cas"] = share_measurement(protocol.recognised_after(generated))
        self.floors["cas"] = share_measurement(protocol.recognised_after_real(len(generated)))
