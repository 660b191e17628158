"""Features of real images and distances between real images: computed once, and found again by the images' hashes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import data
from models.evaluation import features
from models.evaluation.features import FeaturesAndLogits, cached_features, cached_squares
from models.evaluation.neighbours import nearest
from models.spaces import ImageRows
from scripts.tasks.extractors import real_images


class Counting:
    """An extractor that counts the images it is given."""

    name = "counting_00000000"

    def __init__(self) -> None:
        self.counts: list[int] = []

    def extract(self, images: ImageRows) -> FeaturesAndLogits:
        self.counts.append(len(images))
        pixels = images[:].flatten(1).float()
        return FeaturesAndLogits(pixels, pixels[:, :2])


def test_features_are_computed_once_for_each_hash_of_contents(tmp_path: Path) -> None:
    extractor, images = Counting(), torch.arange(48, dtype=torch.uint8).view(4, 1, 3, 4)
    one = cached_features(extractor, images, "one", tmp_path)
    again = cached_features(extractor, images, "one", tmp_path)
    assert extractor.counts == [4] and again.features.equal(one.features) and again.logits.equal(one.logits)
    cached_features(extractor, images, "two", tmp_path)
    cached_features(extractor, images[:3], "one", tmp_path)  # of another number of images
    assert extractor.counts == [4, 4, 3]


def test_distances_between_real_images_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.rand(30, 5, generator=generator), torch.rand(7, 5, generator=generator)
    truth = nearest(test, train).squares
    assert cached_squares("space", test, train, ("a", "b"), tmp_path).equal(truth)
    assert cached_squares("space", test + 1, train, ("a", "b"), tmp_path).equal(truth)
    for space, keys in (("space", ("a", "c")), ("space", ("c", "b")), ("other", ("a", "b"))):
        assert not cached_squares(space, test + 1, train, keys, tmp_path).equal(truth)
    (tmp_path / "shipped").mkdir()
    for path in tmp_path.glob("*.safetensors"):
        path.rename(tmp_path / "shipped" / path.name)
    monkeypatch.setattr(features, "SHIPPED", tmp_path / "shipped")
    assert cached_squares("space", test + 1, train, ("a", "b"), tmp_path).equal(truth)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_cache_that_cannot_be_written_is_computed_anew(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = features.cached_tensors("name", (tmp_path / "file" / "cache",), lambda: {"a": torch.ones(1)}, lambda _: True)
    assert made["a"].item() == 1


def test_shipped_distances_are_few_bytes_and_numbers() -> None:
    files = list(features.SHIPPED.glob("*.safetensors"))
    assert len(files) == 6 and sum(file.stat().st_size for file in files) < 5e6
    for file in files:
        squares = load_file(file)["squares"]
        assert len(squares) == 10_000 and squares.isfinite().all() and squares.min() >= 0


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_shipped_distances_are_those_of_the_pixels(name: str, tmp_path: Path) -> None:
    if not (root := os.environ.get("DATA_ROOT")):
        pytest.skip("DATA_ROOT does not name a folder of real data")
    real = real_images(data.load(name, {}, Path(root)))
    keys = real.train.identity.key, real.test.identity.key
    train, test = (part.images[:].flatten(1) for part in (real.train, real.test))
    shipped = cached_squares("pixels", test, train, keys, tmp_path)
    assert not list(tmp_path.iterdir()), "they are not shipped for these images"
    assert shipped[:30].equal(nearest(test[:30], train).squares)
