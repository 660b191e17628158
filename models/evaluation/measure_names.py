"""Names of the measures: their meanings, and how their values are written for people and in JSON."""

from __future__ import annotations

import math
from typing import NamedTuple

from models.evaluation.statistics import Measurement


class Meaning(NamedTuple):
    """Description of a measure. share: whether its values are shares, written in percent."""

    text: str
    share: bool = False


# A measure's name is one of these words, or begins with one and ends with the feature network or "pixels".
MEANINGS = {
    "noise_loss": Meaning("mean squared error of the estimated noise on real test images, ten times each"),
    "recognised": Meaning("images that the classifier recognises as the class asked for", True),
    "cas": Meaning(
        "real test images recognised by a classifier trained on these images (classification accuracy score)", True
    ),
    "class_shares": Meaning("total variation distance between the recognised classes and the training labels", True),
    "fd_shares": Meaning("fd of training images whose class shares are those asked for"),
    "fd": Meaning("squared Frechet distance to the features of all training images; decreases with n"),
    "fd_limit": Meaning("fd extrapolated to infinitely many images, by a line in 1 / n"),
    "kd": Meaning("unbiased squared kernel distance (cubic kernel); about 0 for real images"),
    "is": Meaning("exp of the information that an image's class carries (formula of the Inception Score)"),
    "precision": Meaning("images in a ball around a training image: fidelity", True),
    "recall": Meaning("training images in a ball around one of the images: diversity", True),
    "density": Meaning("balls around training images that contain an image, over k; about 1 for real images"),
    "coverage": Meaning("training images whose ball contains one of the images", True),
    "one_nn": Meaning("accuracy of 1-nearest-neighbour, images against training images; 50 % for real images", True),
    "nearest_train": Meaning("mean distance to the nearest training image, root mean square over dimensions"),
    "near_copies": Meaning("images nearer to a training image than 99 % of the test images are", True),
    "nearer_to_train": Meaning(
        "images whose nearest real image is a training image; floor: share of training images among all", True
    ),
    "grey_mean": Meaning("mean grey level, 0..255"),
    "grey_deviation": Meaning("standard deviation of the grey levels"),
}


def kind_of(name: str) -> str:
    """Return the longest word of MEANINGS that a measure's name begins with."""
    return max((kind for kind in MEANINGS if name == kind or name.startswith(f"{kind}_")), key=len)


def is_share(name: str) -> bool:
    return MEANINGS[kind_of(name)].share


def for_json(measurement: Measurement | None) -> dict[str, float | None] | None:
    """Return a measurement for JSON, with None for NaN."""
    if measurement is None:
        return None
    numbers = {"value": measurement.value, "low": measurement.low, "high": measurement.high}
    return {key: number if math.isfinite(number) else None for key, number in numbers.items()}


def format_value(name: str, value: float) -> str:
    """Return a value of a measure for people."""
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
