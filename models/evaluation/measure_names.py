"""Names and meanings of the measures, and the format of their values in text and JSON. Imports no torch."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.evaluation.statistics import Measurement

REPORT = "report.json"  # File with the measures of an evaluation of samples, in its folder.
_HASH = re.compile(r"_[0-9a-f]{8}$")  # The last part of a feature network's name.
# A measure's name is one of these words, or begins with one and ends with the feature network or "pixels".
MEANINGS = {
    "noise_loss": "mean squared error of the estimated noise on real test images, at ten values of t per image",
    "recognised": "images that the classifier recognises as the requested class",
    "cas": "real test images recognised by a classifier trained on the measured images (classification accuracy score)",
    "class_shares": "total variation distance between the recognised classes and the training labels",
    "fd_shares": "fd of training images, reweighted to the requested class shares",
    "fd": "squared Frechet distance to the features of all training images; decreases with n",
    "fd_limit": "fd extrapolated to infinitely many images, by a line in 1 / n",
    "kd": "unbiased squared kernel distance (cubic kernel); about 0 for real images",
    "is": "exp of the mutual information of image and predicted class (formula of the Inception Score)",
    "precision": "images inside the ball of a training image: fidelity",
    "recall": "training images inside the ball of an image: diversity",
    "density": "mean number of training images whose ball contains an image, divided by k; about 1 for real images",
    "coverage": "training images whose ball contains one of the images",
    "one_nn": "accuracy of 1-nearest-neighbour, images against training images; 50 % for real images",
    "nearest_train": "mean distance to the nearest training image, root mean square over dimensions",
    "near_copies": "images nearer to a training image than 99 % of the test images are",
    "nearer_to_train": "images nearer to a training image than to any test image; floor: training images / real images",
    "grey_mean": "mean grey level, 0..255",
    "grey_deviation": "standard deviation of the grey levels",
}
AS_FLOOR = "as floor"  # The nearer to the value of real images, the better.
# Better values of each measure: lower, higher, or near the floor.
BETTER = {
    **dict.fromkeys(("noise_loss", "class_shares", "fd", "fd_limit", "kd", "near_copies"), "lower"),
    **dict.fromkeys(("recognised", "cas", "is", "precision", "recall", "coverage"), "higher"),
    **dict.fromkeys(("density", "one_nn", "nearest_train", "nearer_to_train", "grey_mean", "grey_deviation"), AS_FLOOR),
    "fd_shares": "lower",
}
# Measures whose values are shares, written in percent.
SHARES = {"recognised", "cas", "class_shares", "precision", "recall", "coverage", "one_nn"}
SHARES |= {"near_copies", "nearer_to_train"}


def kind_of(name: str) -> str:
    """Return the longest word of MEANINGS that a measure's name begins with. Raises ValueError if there is none."""
    kinds = [kind for kind in MEANINGS if name == kind or name.startswith(f"{kind}_")]
    if not kinds:
        raise ValueError(f"{name} is no measure")
    return max(kinds, key=len)


def space_of(name: str) -> str:
    """Return what follows the kind in a measure's name: a feature network, "pixels", or nothing."""
    return name.removeprefix(kind_of(name)).removeprefix("_")


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return each name without the hash of its network's weights. Names that would become equal keep the hash."""
    names = list(dict.fromkeys(names))
    counts = Counter(_HASH.sub("", name) for name in names)
    return {name: short if counts[short := _HASH.sub("", name)] == 1 else name for name in names}


def is_share(name: str) -> bool:
    return kind_of(name) in SHARES


def for_json(measurement: Measurement | None) -> dict[str, float | None] | None:
    """Return a measurement for JSON, with None for NaN."""
    if measurement is None:
        return None
    numbers = {"value": measurement.value, "low": measurement.low, "high": measurement.high}
    return {key: number if math.isfinite(number) else None for key, number in numbers.items()}


def format_value(name: str, value: float | None) -> str:
    """Return a value as text, in percent if the measure is a share; "-" for None."""
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if is_share(name) else f"{value:.4g}"


def format_measurement(name: str, measurement: Measurement | None) -> str:
    """Return a value with its interval, if it has one; "-" if there is no measurement."""
    if measurement is None:
        return "-"
    text = format_value(name, measurement.value)
    if not math.isfinite(measurement.low):
        return text
    low, high = (format_value(name, end).removesuffix(" %") for end in (measurement.low, measurement.high))
    return f"{text} [{low}, {high}]"
