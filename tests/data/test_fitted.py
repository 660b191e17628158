"""Size and pad of the data sets that are published at one size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import data
from data import mnist
from data.readers.pictures import fit_images
from models.errors import UserError
from models.variants import DATA_SETS
from scripts.cli.signatures import options_of


def digits(**options: Any) -> data.ImageData:
    return data.load("digits", options, Path("unused"))


def test_every_data_set_of_one_size_takes_size_and_pad() -> None:
    for name in DATA_SETS.names():
        options = {option.name: option for option in options_of(DATA_SETS, name)}
        assert "size" in options and options["size"].default == () and options["size"].help
        assert ("pad" in options) == (name not in ("folder", "hf"))


def test_padding_puts_black_around_each_side() -> None:
    plain, padded = digits(), digits(pad=12)
    for before, after in ((plain.train, padded.train), (plain.test, padded.test)):
        images = after.in_memory()
        assert images.shape[1:] == (1, 32, 32) and images.dtype == torch.uint8
        assert torch.equal(images[:, :, 12:20, 12:20], before.in_memory()) and torch.equal(after.labels, before.labels)
        assert images.sum() == before.in_memory().sum()


def test_mnist_becomes_32_by_padding_as_by_scaling(
    monkeypatch: pytest.MonkeyPatch,
    small_mnist: dict[str, bytes],
    manifest: Callable[[dict[str, bytes]], dict[str, str]],
    write_files: Callable[[Path, dict[str, bytes]], None],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(mnist, "MD5", manifest(small_mnist))
    write_files(tmp_path / "MNIST" / "raw", small_mnist)
    loaded = {key: data.load("mnist", {key: value}, tmp_path) for key, value in (("pad", 2), ("size", (32,)))}
    assert all(part.images.shape[1:] == (1, 32, 32) for each in loaded.values() for part in (each.train, each.test))
    first = loaded["size"].train.in_memory()[0, 0].numpy()
    whole = data.load("mnist", {}, tmp_path).train.in_memory()[0, 0].numpy()
    assert np.array_equal(first, np.asarray(Image.fromarray(whole).resize((32, 32), Image.Resampling.LANCZOS)))


def test_size_comes_before_pad_and_may_be_a_rectangle() -> None:
    assert digits(size=(16, 12)).train.images.shape[1:] == (1, 16, 12)
    both = digits(size=(4,), pad=3).train.in_memory()
    assert both.shape[1:] == (1, 10, 10) and both[:, :, :3].max() == 0 and both[:, :, 3:7, 3:7].max() > 200
    assert torch.equal(digits(size=(8, 8)).train.in_memory(), digits().train.in_memory())


def test_each_colour_is_scaled_alone() -> None:
    planes = np.stack([np.full((6, 6), value, np.uint8) for value in (10, 100, 250)])[None]
    fitted = fit_images(planes, (9, 9), 1)
    assert fitted.shape == (1, 3, 11, 11) and fitted[0, :, 5, 5].tolist() == [10, 100, 250]
    assert fitted[0, :, 0].max() == 0 and fitted[0, :, :, -1].max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (8, 8, 8)}, r"dataset\.size 8 8 8: takes one or two numbers"),
        ({"size": (0,)}, r"dataset\.size 0: must be at least 1"),
        ({"pad": -1}, r"dataset\.pad -1: must be at least 0"),
        ({"size": (4096,), "pad": 1024}, r"1438 images of 6144×6144 .* choose a smaller dataset\.size"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.readers.pictures.free_memory", lambda: 1 << 30)
    with pytest.raises(UserError, match=message):
        digits(**options)
