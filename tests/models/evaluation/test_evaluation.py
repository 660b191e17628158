"""Evaluations of digits that are known to be real, copied, or wrongly converted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from models.evaluation import evaluation_report
from models.evaluation.classifier import Classifier, ClassifierSettings, fit_classifier, for_inference
from models.evaluation.evaluation import Evaluation
from models.evaluation.evaluation_report import evaluation_table
from models.evaluation.image_sets import LabelledImages, RealImages, Samples
from models.evaluation.measure_names import AS_FLOOR, BETTER, MEANINGS, kind_of, short_names
from models.evaluation.measures import MeasureSettings, Reference, measure_floor
from models.evaluation.protocol import Protocol
from models.variants import DATA_SETS
from scripts.tasks.extractors import real_images

NAME = "convnet_00000000"


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    """A protocol for digits, with the features of a network that was trained for two epochs."""
    real = real_images(DATA_SETS.find("digits")().load(Path()))
    device = torch.device("cpu")
    network = for_inference(fit_classifier(ClassifierSettings(epochs=2), real.train, 10, device), device)
    facts = {"network": "convnet", "sha256": "0" * 64, "accuracy": 0.9}
    cache = tmp_path_factory.mktemp("cache")
    return Protocol(real, [Classifier(network, facts)], MeasureSettings(draws=10), cache, device)


@pytest.fixture
def real(protocol: Protocol) -> RealImages:
    return protocol.real


def evaluation_of(protocol: Protocol, images: Tensor, labels: Tensor | None = None) -> Evaluation:
    evaluation = Evaluation(protocol, Samples(images, labels, "images", {}))
    evaluation.measure()
    return evaluation


def ratio_to_floor(evaluation: Evaluation) -> float:
    return evaluation.measurements[f"fd_{NAME}"].value / evaluation.floors[f"fd_{NAME}"].value


def has_warning(evaluation: Evaluation, text: str) -> bool:
    return any(text in warning for warning in evaluation.warnings)


def test_test_images_measure_as_the_floor(protocol: Protocol, real: RealImages) -> None:
    rows = protocol.floor_rows(200)
    evaluation = evaluation_of(protocol, real.test.images[rows], real.test.labels[rows])
    measurements = evaluation.measurements
    # The floors of these are measured on all test images, or known.
    other_floors = ("nearest_train", "near_copies", "nearer_to_train")
    for name, floor in evaluation.floors.items():
        if not name.startswith(other_floors):
            assert measurements[name].value == pytest.approx(floor.value, rel=1e-9, abs=1e-9), name
    assert evaluation.warnings == [] and measurements.keys() == evaluation.floors.keys()
    recognised = measurements[f"recognised_{NAME}"].value
    assert recognised > 0.7
    assert evaluation.confusion is not None and evaluation.confusion.sum() == 200
    assert evaluation.confusion.diagonal().sum() / 200 == pytest.approx(recognised)


def test_a_floor_is_measured_once(protocol: Protocol, real: RealImages, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def measure(test: Any, rows: Tensor, *rest: Any) -> Any:
        sizes.append(len(rows))
        return measure_floor(test, rows, *rest)

    monkeypatch.setattr("models.evaluation.protocol.measure_floor", measure)
    first, second = (evaluation_of(protocol, real.train.images[:150]).floors for _ in range(2))
    assert sizes == [150] and first.keys() == second.keys()
    for name, floor in first.items():
        assert second[name][:3] == pytest.approx(floor[:3], nan_ok=True), name
    evaluation_of(replace(protocol, settings=MeasureSettings(draws=10, seed=1)), real.train.images[:150])
    evaluation_of(protocol, real.train.images[:140])
    assert sizes == [150, 150, 140]
    extractor, train = protocol.extractors[0], protocol.train_features(protocol.extractors[0])
    reference = Reference.of(train.features, 140, protocol.settings.seed)
    protocol.floor(extractor, reference, 140, [f"kd_{NAME}"])
    assert sizes == [150, 150, 140]
    protocol.floor(extractor, reference, 140, [f"kd_{NAME}", f"a_new_measure_{NAME}"])
    assert sizes == [150, 150, 140, 140]


def test_values_that_wrapped_around_are_detected(protocol: Protocol, real: RealImages) -> None:
    """Pixels are 2 % too bright and not clipped, so that 1.02 times white becomes almost black."""
    wrapped = (real.test.images[:].double() * 1.02).round().remainder(256).to(torch.uint8)
    evaluation = evaluation_of(protocol, wrapped)
    assert ratio_to_floor(evaluation) > 5
    for name in ("grey_mean", "grey_deviation"):
        assert evaluation.measurements[name].high < evaluation.floors[name].low


@pytest.mark.parametrize("rounding", [torch.round, torch.floor])
def test_images_that_were_not_scaled_to_255_are_detected(
    protocol: Protocol, real: RealImages, rounding: Callable[[Tensor], Tensor]
) -> None:
    unscaled = rounding(real.test.images[:].double() / 255).to(torch.uint8)
    evaluation = evaluation_of(protocol, unscaled)
    assert ratio_to_floor(evaluation) > 20
    assert all(evaluation.measurements[name].value < 1 for name in ("grey_mean", "grey_deviation"))
    assert has_warning(evaluation, "0..1")


def test_training_images_are_detected(protocol: Protocol, real: RealImages) -> None:
    rows = torch.arange(0, 1400, 7)
    evaluation = evaluation_of(protocol, real.train.images[rows], real.train.labels[rows])
    measurements, floors = evaluation.measurements, evaluation.floors
    assert evaluation.pixels is not None and evaluation.pixels.nearest.tolist() == rows.tolist()
    assert (evaluation.pixels.distances == 0).all()
    assert measurements["near_copies_pixels"].value == 1 and measurements[f"near_copies_{NAME}"].value == 1
    assert measurements["nearer_to_train_pixels"].value == 1 > floors["nearer_to_train_pixels"].value
    assert measurements["nearest_train_pixels"].value == 0 < floors["nearest_train_pixels"].low
    assert sum("100.0 % of the images are near copies" in warning for warning in evaluation.warnings) == 2
    assert not has_warning(evaluation_of(protocol, real.test.images[torch.arange(200)]), "near copies")


def test_warnings_name_what_cannot_be_compared(protocol: Protocol, real: RealImages) -> None:
    many = evaluation_of(protocol, real.train.images[torch.arange(400)])
    assert has_warning(many, "400 images, but the floor has only 359")
    assert f"recognised_{NAME}" not in many.measurements and many.confusion is None
    few = evaluation_of(protocol, real.test.images[torch.arange(60)])
    assert has_warning(few, "60 images for 128 features")
    assert len(few.protocol.floor_rows(60)) == 60


def test_a_class_without_training_images_is_not_missed(protocol: Protocol, real: RealImages) -> None:
    protocol = replace(protocol, real=replace(real, train=real.train[real.train.labels != 9]))

    def warnings_for(classes: int) -> list[str]:
        labels = torch.arange(50) % classes
        evaluation = Evaluation(protocol, Samples(real.test.images[:50], labels, "images", {}))
        evaluation._warn_of_input()
        return evaluation.warnings

    assert warnings_for(9) == []
    assert warnings_for(8) == ["1 class was not asked for, but the training images have it"]


def test_the_distance_due_to_class_shares(protocol: Protocol, real: RealImages) -> None:
    """All training images of half of the classes differ from all training images in their class shares only."""
    half = real.train.labels < 5
    evaluation = evaluation_of(protocol, real.train.images[half], real.train.labels[half])
    shares = evaluation.measurements[f"fd_shares_{NAME}"].value
    distance = evaluation.measurements[f"fd_{NAME}"].value
    assert shares == pytest.approx(distance, rel=0.01)  # The covariances differ by n / (n - 1).
    assert any("other shares" in warning and f"{shares:.4g}" in warning for warning in evaluation.warnings)
    same_shares = evaluation_of(protocol, real.train.images[:], real.train.labels)
    assert same_shares.measurements[f"fd_shares_{NAME}"].value == pytest.approx(0, abs=1e-9)
    assert not has_warning(same_shares, "other shares")
    unlabelled = evaluation_of(protocol, real.train.images[half])
    assert f"fd_shares_{NAME}" not in unlabelled.measurements


def test_the_card(protocol: Protocol) -> None:
    card = protocol.card(50)
    assert card["images"] == 50 and card["floor"] == "test split, 50 images" and card["extractors"] == [NAME]
    assert card["reference"] == "train split, 1438 images; pairs with 50 of them"
    assert protocol.card(5000)["reference"].endswith("pairs with 1438 of them")


def test_every_measure_says_which_way_is_better() -> None:
    assert BETTER.keys() == MEANINGS.keys() and set(BETTER.values()) == {"lower", "higher", AS_FLOOR}


def test_networks_are_named_without_their_hash_unless_two_would_be_equal() -> None:
    one, two, other, file = "fd_convnet_0123abcd", "fd_convnet_89abcdef", "fd_resnet_0123abcd", "kd_convnet"
    assert short_names([one, other, "grey_mean"]) == {one: "fd_convnet", other: "fd_resnet", "grey_mean": "grey_mean"}
    assert short_names([one, two, file]) == {one: one, two: two, file: file}


def test_the_table(protocol: Protocol, real: RealImages) -> None:
    rows = torch.arange(150)
    evaluation = evaluation_of(protocol, real.train.images[rows], real.train.labels[rows])
    table = evaluation_table(evaluation)
    lines = [line for line in table.splitlines() if not line.startswith("warning: ")]
    assert all(any(line.split()[:1] == [kind_of(name)] for line in lines) for name in evaluation.measurements)
    assert max(map(len, lines)) <= 80
    assert "in convnet" in lines and "in pixels" in lines and not any("convnet_" in line for line in lines)
    (row,) = (line for line in lines if line.startswith("  fd / floor "))
    assert float(row.split()[3]) == pytest.approx(ratio_to_floor(evaluation), abs=0.006) and row.endswith(" lower")
    (row,) = (line for line in lines if line.startswith("  recognised "))
    assert row.endswith(" higher")
    row, _ = (line for line in lines if line.startswith("grey_mean "))  # and its meaning
    assert row.endswith(" as floor") and any(line.startswith("as floor  ") for line in lines)
    floor = evaluation.floors[f"fd_{NAME}"]
    assert floor.low < floor.value < floor.high
    few = evaluation_table(evaluation_of(protocol, real.test.images[rows[:50]], real.test.labels[rows[:50]]))
    assert "warning: 50 images for 128 features" in few
    assert "fd / floor" not in few  # With a singular covariance, the ratio would have no meaning.
    one_class = evaluation_of(protocol, real.test.images[rows], torch.zeros(150, dtype=torch.long))
    assert "9 classes were not asked for" in evaluation_table(one_class)


@pytest.mark.slow
def test_classification_accuracy_score_depends_on_the_labels(
    protocol: Protocol, real: RealImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The score of real images is about that of the floor. With shuffled labels, it is about chance.

    The classifier of the floor is trained once: what it recognises is cached.
    """
    sets: list[Tensor] = []

    def fit(settings: ClassifierSettings, examples: LabelledImages, *others: Any) -> nn.Module:
        sets.append(examples.labels)
        return fit_classifier(settings, examples, *others)

    monkeypatch.setattr("models.evaluation.protocol.fit_classifier", fit)
    examples = real.train[torch.arange(150)]
    shuffled = examples.labels[torch.randperm(150, generator=torch.Generator().manual_seed(0))]
    scores = []
    for labels in (examples.labels, shuffled):
        evaluation = Evaluation(protocol, Samples(examples.images[:], labels, "images", {}))
        evaluation.measure(classification_accuracy=True)
        scores.append(evaluation.measurements["cas"].value)
        assert evaluation.floors["cas"].value > 0.7
    assert scores[0] > 0.7 and scores[1] < 0.3
    assert len(sets) == 3 and torch.equal(sets[0], examples.labels) and torch.equal(sets[2], shuffled)
    protocol.recognised_after_real(100)
    assert len(sets) == 4 and len(sets[3]) == 100  # Another count is not served from the cache.
    unlabelled = Evaluation(protocol, Samples(examples.images[:], None, "images", {}))
    unlabelled.measure(classification_accuracy=True)
    assert "cas" not in unlabelled.measurements and has_warning(unlabelled, "no labels")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1, 2, 0, 1, 2], ["ant", "bee", "cow"]),
        ([2, 0, 2, 0], ["ant", "cow"]),  # Only two classes were asked for.
        ([1, 1, 1], ["bee"]),
        ([0, 0, 0, 2], ["ant", "cow", "ant", "ant"]),
        (None, []),
    ],
)
def test_the_sheet_of_samples_names_their_classes(labels, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[str]] = []
    monkeypatch.setattr(evaluation_report.sheets, "sample_sheet", lambda images, names, title: drawn.append(names))
    monkeypatch.setattr(evaluation_report.image_files, "save_image", lambda sheet, path: None)
    count = 4 if labels is None else len(labels)
    samples = Samples(torch.zeros(count, 1, 8, 8), None if labels is None else torch.tensor(labels), "images", {})
    protocol = SimpleNamespace(real=SimpleNamespace(class_names=("ant", "bee", "cow")))
    evaluation_report._draw_samples(cast(Any, SimpleNamespace(samples=samples, protocol=protocol)), Path("samples.png"))
    assert drawn == [expected]
