"""Measures of samples during training, with a feature network of known output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.evaluation.distances import frechet_distance, gaussian
from models.evaluation.features import FeaturesAndLogits
from models.evaluation.sample_test import SampleTest
from models.spaces import ImageRows


class Mean:
    """A network whose features are mean and deviation of an image. The class says whether the mean is above 128."""

    name = "mean"

    def extract(self, images: ImageRows) -> FeaturesAndLogits:
        pixels = images[:].flatten(1).double()
        means = pixels.mean(1)
        features = torch.stack([means, pixels.std(1)], dim=1)
        return FeaturesAndLogits(features, torch.stack([128 - means, means - 128], dim=1))


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (50, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_the_distance_is_that_of_the_features(images: Tensor) -> None:
    train = gaussian(Mean().extract(images).features)
    test = SampleTest(Mean(), train, 10)
    assert test.measure(images, None) == {"sample_distance": pytest.approx(0, abs=1e-9)}
    expected = frechet_distance(gaussian(Mean().extract(images[:10]).features), train)
    assert test.measure(images[:10], None)["sample_distance"] == expected > 0


def test_the_share_recognised_is_of_the_labels_asked_for(images: Tensor) -> None:
    test = SampleTest(Mean(), gaussian(Mean().extract(images).features), 50)
    right = Mean().extract(images).predictions.tolist()
    wrong = [1 - label if row < 10 else label for row, label in enumerate(right)]
    measured = test.measure(images, wrong)
    assert tuple(measured) == test.names(True) and test.names(False) == ("sample_distance",)
    assert measured["sample_recognised"] == pytest.approx(0.8)
    assert "recognised 80.0%" in test.describe(measured)
    assert "recognised" not in test.describe(test.measure(images, None))
