"""Evaluations of digits that are known to be real, copied, or wrongly converted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scripts.tasks.measuring import Evaluation, Protocol
from torch import Tensor

from data import ImageData
from models.evaluation.classifier import Classifier, LabelledImages, Schooling, fit_classifier, frozen
from models.evaluation.measures import Settings
from models.variants import DATA_SETS
from scripts.tasks.samples import Samples


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    """The digits in the features of a network that has seen them for a moment."""
    dataset = DATA_SETS.find("digits")().load(Path())
    shown = LabelledImages(dataset.train.images, dataset.train.labels)
    network = frozen(fit_classifier(Schooling(epochs=2), shown, 10, torch.device("cpu")), torch.device("cpu"))
    facts = {"network": "convnet", "sha256": "0" * 64, "accuracy": 0.9}
    return Protocol(dataset, [Classifier(network, facts)], Settings(draws=10), tmp_path_factory.mktemp("kept"))


@pytest.fixture
def dataset(protocol: Protocol) -> ImageData:
    return protocol.dataset


def evaluation_of(protocol: Protocol, images: Tensor, labels: Tensor | None = None) -> Evaluation:
    found = Evaluation(protocol, Samples(images, labels, "images", {}))
    found.measure()
    return found


NAME = "convnet_00000000"


def times_floor(found: Evaluation) -> float:
    return found.found[f"fd_{NAME}"].value / found.floors[f"fd_{NAME}"].value


def test_the_test_images_get_what_the_floor_gets(protocol: Protocol, dataset: ImageData) -> None:
    rows = protocol.floor_rows(200)
    found = evaluation_of(protocol, dataset.test.images[rows], dataset.test.labels[rows])
    own = ("nearest_train", "near_copies", "nearer_to_train")  # These are taken over all test images, or are known.
    for name, floor in found.floors.items():
        if not name.startswith(own):
            assert found.found[name].value == pytest.approx(floor.value, rel=1e-9, abs=1e-9), name
    assert found.warnings == [] and found.found.keys() == found.floors.keys()
    assert found.found[f"recognised_{NAME}"].value > 0.7
    assert found.confusion is not None and found.confusion.sum() == 200
    assert found.confusion.diagonal().sum() / 200 == pytest.approx(found.found[f"recognised_{NAME}"].value)


def test_values_that_wrapped_around_are_seen(protocol: Protocol, dataset: ImageData) -> None:
    """Two in a hundred too bright and not clipped: 1.02 of white became almost black."""
    wrapped = (dataset.test.in_memory().double() * 1.02).round().remainder(256).to(torch.uint8)
    found = evaluation_of(protocol, wrapped)
    assert times_floor(found) > 5
    assert found.found["grey_mean"].high < found.floors["grey_mean"].low
    assert found.found["grey_deviation"].high < found.floors["grey_deviation"].low


@pytest.mark.parametrize("cut", [torch.round, torch.floor])
def test_images_that_were_not_scaled_to_255_are_seen(protocol: Protocol, dataset: ImageData, cut) -> None:
    unscaled = cut(dataset.test.in_memory().double() / 255).to(torch.uint8)
    found = evaluation_of(protocol, unscaled)
    assert times_floor(found) > 20
    assert found.found["grey_mean"].value < 1 and found.found["grey_deviation"].value < 1
    assert [word for word in found.warnings if "0..1" in word]


def test_training_images_are_found_out(protocol: Protocol, dataset: ImageData) -> None:
    chosen = torch.arange(0, 1400, 7)
    found = evaluation_of(protocol, dataset.train.images[chosen], dataset.train.labels[chosen])
    assert found.pixels is not None and found.pixels.nearest.tolist() == chosen.tolist()
    assert (found.pixels.distances == 0).all()
    assert found.found["near_copies_pixels"].value == 1 and found.found[f"near_copies_{NAME}"].value == 1
    assert found.found["nearer_to_train_pixels"].value == 1 > found.floors["nearer_to_train_pixels"].value
    assert found.found["nearest_train_pixels"].value == 0 < found.floors["nearest_train_pixels"].low
    assert len([word for word in found.warnings if "100.0 % of the images are near copies" in word]) == 2
    assert not [word for word in evaluation_of(protocol, dataset.test.images[:200]).warnings if "near copies" in word]


def test_what_cannot_be_compared_is_said(protocol: Protocol, dataset: ImageData) -> None:
    many = evaluation_of(protocol, dataset.train.images[:400])
    assert any("400 images, but a floor of 359" in word for word in many.warnings)
    assert f"recognised_{NAME}" not in many.found and many.confusion is None
    few = evaluation_of(protocol, dataset.test.images[:60])
    assert any("60 images for 128 features" in word for word in few.warnings)
    assert len(few.protocol.floor_rows(60)) == 60


def test_what_the_shares_of_the_classes_are_worth(protocol: Protocol, dataset: ImageData) -> None:
    """All training images of half of the classes differ from all in nothing else."""
    half = dataset.train.labels < 5
    found = evaluation_of(protocol, dataset.train.images[half], dataset.train.labels[half])
    alone = found.found[f"fd_shares_{NAME}"].value
    assert alone == pytest.approx(found.found[f"fd_{NAME}"].value, rel=0.01)  # n / (n - 1) of its covariance
    assert [word for word in found.warnings if "other shares" in word and f"{alone:.4g}" in word]
    alike = evaluation_of(protocol, dataset.train.in_memory(), dataset.train.labels)
    assert alike.found[f"fd_shares_{NAME}"].value == pytest.approx(0, abs=1e-9)
    assert not [word for word in alike.warnings if "other shares" in word]
    unknown = evaluation_of(protocol, dataset.train.images[half])
    assert f"fd_shares_{NAME}" not in unknown.found


def test_the_card_and_the_table(protocol: Protocol, dataset: ImageData, tmp_path: Path) -> None:
    found = evaluation_of(protocol, dataset.train.images[:150], dataset.train.labels[:150])
    card = protocol.card(50)
    assert card["images"] == 50 and card["floor"] == "test split, 50 images" and card["extractors"] == [NAME]
    assert card["reference"] == "train split, 1438 images; pairs with 50 of them"
    assert protocol.card(5000)["reference"].endswith("pairs with 1438 of them")
    table = found.table()
    assert all(name in table for name in found.found)
    (row,) = (line for line in table.splitlines() if line.startswith(f"fd_{NAME} "))
    assert float(row.split()[-1]) == pytest.approx(times_floor(found), abs=0.006)
    floor = found.floors[f"fd_{NAME}"]
    assert floor.low < floor.value < floor.high
    few = evaluation_of(protocol, dataset.test.images[:50], dataset.test.labels[:50]).table()
    assert "warning: 50 images for 128 features" in few
    (row,) = (line for line in few.splitlines() if line.startswith(f"fd_{NAME} "))
    assert row.endswith("]")  # A ratio of what is not determined would mean nothing.
    of_one = evaluation_of(protocol, dataset.test.images[:150], torch.zeros(150, dtype=torch.long)).table()
    assert "9 classes were not asked for" in of_one


def test_a_classifier_learns_from_images_what_their_labels_say(protocol: Protocol, dataset: ImageData) -> None:
    """The classification accuracy score of real images is that of the floor; with their labels shuffled, a guess."""
    images, labels = dataset.train.images[:150], dataset.train.labels[:150]
    scores = []
    for shown in (labels, labels[torch.randperm(150, generator=torch.Generator().manual_seed(0))]):
        found = Evaluation(protocol, Samples(images, shown, "images", {}))
        found.measure(classification_accuracy=True)
        scores.append(found.found["cas"].value)
        assert found.floors["cas"].value > 0.7
    assert scores[0] > 0.7 and scores[1] < 0.3
    unlabelled = Evaluation(protocol, Samples(images, None, "images", {}))
    unlabelled.measure(classification_accuracy=True)
    assert "cas" not in unlabelled.found and [word for word in unlabelled.warnings if "no labels" in word]
