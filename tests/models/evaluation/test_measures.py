"""Measures of images with a known distribution, and their independence of chunks and threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.evaluation import classifier as classifiers
from models.evaluation import distances, neighbours
from models.evaluation.classifier import Classifier, for_inference
from models.evaluation.distances import frechet_distance, gaussian
from models.evaluation.feature_networks import NETWORKS
from models.evaluation.features import FeaturesAndLogits
from models.evaluation.measures import (
    MeasureSettings,
    Reference,
    frechet_floor,
    grey_measures,
    measure_features,
    memory_measures,
    random_rows,
)
from models.evaluation.memorisation import memorisation
from models.evaluation.neighbours import expected_coverage, expected_mixing
from models.evaluation.statistics import Measurement, Z

WIDTH, COUNT = 6, 300
SETTINGS = MeasureSettings(k=5, draws=20)
Rows = dict[str, Measurement]


def modes(count: int, seed: int, centres: tuple[float, ...] = (0, 30)) -> Tensor:
    """Features of several modes, each a Gaussian about its centre, with equally many of each mode."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.tensor(centres, dtype=torch.float64)[torch.arange(count) % len(centres)]
    return torch.randn(count, WIDTH, generator=generator, dtype=torch.float64) + means[:, None]


def rows_of(features: Tensor, train: Tensor, settings: MeasureSettings = SETTINGS) -> Rows:
    """Measurements by name. The class of an image is the side of 15 on which its features are."""
    logits = torch.stack([15 - features.mean(1), features.mean(1) - 15], dim=1)
    reference = Reference.of(train, len(features), settings.seed)
    return measure_features(FeaturesAndLogits(features, logits), reference, "x", settings)


def values(rows: Rows) -> dict[str, float]:
    return {name.removesuffix("_x"): row.value for name, row in rows.items()}


def test_images_of_the_same_distribution() -> None:
    rows = rows_of(modes(COUNT, 0), modes(COUNT, 1))
    value = values(rows)
    assert value["precision"] > 0.85 and value["recall"] > 0.85
    assert value["density"] == pytest.approx(1, abs=0.12)
    assert value["coverage"] == pytest.approx(expected_coverage(COUNT, COUNT, 5), abs=0.03)
    assert value["one_nn"] == pytest.approx(1 - expected_mixing(COUNT, COUNT), abs=0.06)
    assert rows["kd_x"].low < 0 < rows["kd_x"].high
    assert value["is"] == pytest.approx(2, abs=1e-3)
    assert 0 < value["fd"] < 0.6
    assert all(row.low <= row.value <= row.high for row in rows.values())


def test_identical_images() -> None:
    """Copies of the training images are perfect by all measures but one: their nearest neighbour is the copy."""
    train = modes(COUNT, 1)
    value = values(rows_of(train.flip(0), train))
    assert value["fd"] == pytest.approx(0, abs=1e-9) and value["kd"] <= 0
    assert value["precision"] == value["recall"] == value["coverage"] == 1
    assert value["density"] == pytest.approx(6 / 5)  # Each ball contains its centre and five neighbours.
    assert value["one_nn"] == 0


def test_a_collapsed_mode_shows_in_recall_and_coverage_while_precision_stays() -> None:
    train = modes(COUNT, 1)
    whole, collapsed = values(rows_of(modes(COUNT, 0), train)), values(rows_of(modes(COUNT, 0, (0,)), train))
    assert collapsed["precision"] > whole["precision"] - 0.03
    assert 0.4 < collapsed["recall"] < 0.52 and 0.4 < collapsed["coverage"] <= 0.51
    assert collapsed["is"] < 1.01
    # The means differ by 15 in each dimension, and the spread of the modes, 15, is missing.
    assert collapsed["fd"] == pytest.approx(2 * 15**2 * WIDTH, rel=0.1)
    assert collapsed["one_nn"] > whole["one_nn"] + 0.05


def test_shifted_images() -> None:
    train, moved = modes(COUNT, 1), modes(COUNT, 0) + 12
    rows = rows_of(moved, train)
    value = values(rows)
    assert value["fd"] == pytest.approx(WIDTH * 12**2, rel=0.03)
    assert rows["fd_x"].low < WIDTH * 12**2 < rows["fd_x"].high
    assert value["precision"] == value["recall"] == value["density"] == value["coverage"] == 0
    assert value["one_nn"] == 1 and rows["kd_x"].low > 0


def test_the_limit_is_measured_with_extrapolate() -> None:
    rows = rows_of(modes(COUNT, 0, (0,)), modes(COUNT, 1, (0,)), MeasureSettings(draws=10, extrapolate=True))
    assert abs(rows["fd_limit_x"].value) < rows["fd_x"].value
    assert "fd_limit_x" not in rows_of(modes(20, 0), modes(20, 1))


def test_pairs_are_of_at_most_so_many_images_and_moments_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.evaluation.measures.MAX_PAIRED", 50)
    features, train = modes(COUNT, 0), modes(2 * COUNT, 1)
    reference = Reference.of(train, COUNT, 0)
    assert len(reference.paired) == 50
    rows = random_rows(COUNT, 50, SETTINGS.seed, "paired").sort().values
    few, whole = rows_of(features, train), rows_of(features[rows], train)
    assert few["coverage_x"].value == whole["coverage_x"].value and few["fd_x"] != whole["fd_x"]
    assert few["kd_x"].value == whole["kd_x"].value


def test_pairs_of_sorted_images_are_of_all_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.evaluation.measures.MAX_PAIRED", 60)
    features, train = modes(COUNT, 0), modes(2 * COUNT, 1)
    in_order = torch.cat([features[::2], features[1::2]])
    sorted_rows, mixed = (values(rows_of(part, train)) for part in (in_order, features))
    for name in ("recall", "coverage"):
        assert sorted_rows[name] == pytest.approx(mixed[name], abs=0.15) and sorted_rows[name] > 0.7


def test_the_floor_spreads_as_fresh_sets_do() -> None:
    """This holds even if each set has half of the real images, so that two sets share a quarter of them."""
    generator = torch.Generator().manual_seed(0)
    reference = gaussian(torch.randn(20_000, 2, generator=generator, dtype=torch.float64))
    fresh = torch.randn(300, 200, 2, generator=generator, dtype=torch.float64)
    expected = torch.tensor([frechet_distance(gaussian(part), reference) for part in fresh]).std().item()
    floors = [frechet_floor(torch.cat([*pair]), reference, 200, seed) for seed, pair in enumerate(fresh.split(2))]
    spreads = [(floor.high - floor.value) / Z for floor in floors if floor is not None]
    assert len(spreads) == 150
    assert torch.tensor(spreads).square().mean().sqrt().item() == pytest.approx(expected, rel=0.2)


def images(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator).to(torch.uint8)


def everything(threads: int) -> list[float]:
    """Every number of a small evaluation, computed from pixels with this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            classifier = Classifier(for_inference(NETWORKS["convnet"]((1, 8, 8), 10), torch.device("cpu")), {})
        samples, train, test = (classifier.extract(images(count, count)) for count in (45, 60, 50))
        settings = MeasureSettings(k=3, draws=10, extrapolate=True)
        rows = measure_features(samples, Reference.of(train.features, 45, 0), "x", settings)
        rows |= memory_measures(memorisation(samples.features, train.features, test.features), "x", settings)
        rows |= grey_measures(images(45, 45), settings)
        return [number for row in rows.values() for number in row[:3]]
    finally:
        torch.set_num_threads(before)


def test_neither_chunks_nor_threads_change_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = everything(1)
    assert everything(3) == pytest.approx(whole, rel=1e-9, abs=1e-9, nan_ok=True)
    for chunk in (1, 7, 44):
        monkeypatch.setattr(neighbours, "CHUNK", chunk)
        monkeypatch.setattr(distances, "CHUNK", chunk)
        monkeypatch.setattr(classifiers, "BATCH", chunk)
        assert everything(1) == pytest.approx(whole, rel=1e-9, abs=1e-9, nan_ok=True)


def test_grey_levels() -> None:
    half = torch.cat([torch.zeros(50, 1, 4, 4), torch.full((50, 1, 4, 4), 200)]).to(torch.uint8)
    rows = grey_measures(half, MeasureSettings(draws=400))
    assert rows["grey_mean"].value == 100 and rows["grey_deviation"].value == pytest.approx(100)
    width = rows["grey_mean"].high - rows["grey_mean"].low
    assert width == pytest.approx(2 * 1.96 * 100 / 10, rel=0.15)  # Resamples draw images, not pixels.
    constant = grey_measures(torch.full((9, 3, 2, 2), 7, dtype=torch.uint8), MeasureSettings(draws=10))
    assert tuple(constant["grey_deviation"])[:3] == (0, 0, 0) and constant["grey_mean"].value == 7
