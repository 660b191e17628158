"""EMNIST, on small files in the official layout: gzip.zip with gzipped idx files, transposed images."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import data
from data import emnist
from models.errors import UserError

CLASS_COUNTS = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}


def upright_image(number: int) -> np.ndarray:
    """Return an image that differs from its transpose: a bar along the top whose length depends on the number."""
    image = np.zeros((28, 28), np.uint8)
    image[0, : 2 + number % 26] = 255
    image[1, 0] = number
    return image


def official(idx_bytes: Callable[[np.ndarray], bytes], split: str) -> dict[str, bytes]:
    """Return the four files of a split: every class once to train, the last class and the first to test."""
    contents = {}
    first = 1 if split == "letters" else 0
    for part, labels in (
        ("train", np.arange(CLASS_COUNTS[split]) + first),
        ("test", np.array([CLASS_COUNTS[split] - 1, 0]) + first),
    ):
        stored = np.stack([upright_image(int(label) - first).T for label in labels])
        contents[f"emnist-{split}-{part}-images-idx3-ubyte"] = idx_bytes(stored)
        contents[f"emnist-{split}-{part}-labels-idx1-ubyte"] = idx_bytes(labels)
    return contents


@pytest.fixture
def archive(tmp_path: Path, idx_bytes: Callable[[np.ndarray], bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a gzip.zip with all six splits the published one. Return its path."""
    path = tmp_path / "EMNIST" / "raw" / "gzip.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("gzip/", "")
        for split in CLASS_COUNTS:
            for name, contents in official(idx_bytes, split).items():
                opened.writestr(f"gzip/{name}.gz", gzip.compress(contents))
            opened.writestr(f"gzip/emnist-{split}-mapping.txt", "0 48\n")
    monkeypatch.setattr(emnist, "ARCHIVE_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(emnist, "URLS", ("http://127.0.0.1:1/gzip.zip",))
    return path


def check(loaded: Any, split: str) -> None:
    classes = CLASS_COUNTS[split]
    assert loaded.name == "emnist" and loaded.flips is False
    assert len(loaded.class_names) == classes and all(len(name) == 1 for name in loaded.class_names)
    assert loaded.train.images.shape == (classes, 1, 28, 28) and loaded.train.images.dtype == torch.uint8
    assert loaded.train.labels.tolist() == list(range(classes))
    assert loaded.test.labels.tolist() == [classes - 1, 0]
    for number in range(classes):
        assert np.array_equal(loaded.train.images[number, 0].numpy(), upright_image(number))


@pytest.mark.parametrize("split", emnist.CLASS_NAMES)
def test_every_split_from_the_archive_in_place(split: Any, archive: Path) -> None:
    check(emnist.EMNIST(split=split).load(archive.parents[2]), split)
    assert [path.name for path in archive.parent.iterdir()] == ["gzip.zip"]


@pytest.mark.parametrize("folder", ["EMNIST/raw", "EMNIST/raw/gzip"])
@pytest.mark.parametrize("packed", [False, True])
def test_loose_files(folder: str, packed: bool, tmp_path: Path, idx_bytes: Any, gzipped: Any, write_files: Any) -> None:
    contents = official(idx_bytes, "letters")
    write_files(tmp_path / folder, gzipped(contents) if packed else contents)
    check(emnist.EMNIST(split="letters").load(tmp_path), "letters")


def test_names_are_characters_and_torchvisions() -> None:
    from torchvision.datasets import EMNIST

    assert (EMNIST.url,) == emnist.URLS
    for split, names in emnist.CLASS_NAMES.items():
        theirs = EMNIST.classes_split_dict[split]
        assert list(names) == (theirs[1:] if split == "letters" else theirs)
    assert tuple(emnist.CLASS_NAMES) == EMNIST.splits
    assert EMNIST.md5 == emnist.ARCHIVE_MD5


def test_download(archive: Path, tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["gzip.zip"] = archive.read_bytes()
    monkeypatch.setattr(emnist, "URLS", (f"{server.url}gzip.zip",))
    check(emnist.EMNIST(split="digits").load(tmp_path / "new"), "digits")
    server.files["gzip.zip"] = archive.read_bytes()[:-1]
    with pytest.raises(UserError, match="something else than the published file"):
        emnist.EMNIST(split="digits").load(tmp_path / "newer")
    assert list((tmp_path / "newer" / "EMNIST" / "raw").iterdir()) == []


def test_offline(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gzip\.zip missing in .*EMNIST/raw.*DATA_ROOT"):
        emnist.EMNIST().load(tmp_path)


def test_altered_archive_is_named(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"gzip\.zip is cut short or altered"):
        emnist.EMNIST().load(archive.parents[2])


@pytest.mark.parametrize("fault", ["missing", "cut short"])
def test_bad_member_is_named(fault: str, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "emnist-digits-test-labels-idx1-ubyte.gz"
    with zipfile.ZipFile(archive) as opened:
        members = {member: opened.read(member) for member in opened.namelist() if not member.endswith("/")}
    if fault == "missing":
        del members[f"gzip/{name}"]
    else:
        members[f"gzip/{name}"] = members[f"gzip/{name}"][:-9]
    with zipfile.ZipFile(archive, "w") as opened:
        for member, contents in members.items():
            opened.writestr(member, contents)
    monkeypatch.setattr(emnist, "ARCHIVE_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    with pytest.raises(UserError) as error:
        emnist.EMNIST(split="digits").load(archive.parents[2])
    assert name in str(error.value) and str(archive) in str(error.value)


def test_labels_out_of_range_and_counts_that_differ(tmp_path: Path, idx_bytes: Any, write_files: Any) -> None:
    contents = official(idx_bytes, "digits")
    contents["emnist-digits-test-labels-idx1-ubyte"] = idx_bytes(np.array([3, 10]))
    write_files(tmp_path / "EMNIST/raw", contents)
    with pytest.raises(UserError, match="labels run from 3 to 10, expected 0 to 9"):
        emnist.EMNIST(split="digits").load(tmp_path)
    contents["emnist-digits-test-labels-idx1-ubyte"] = idx_bytes(np.array([3, 1, 2]))
    write_files(tmp_path / "EMNIST/raw", contents)
    with pytest.raises(UserError, match="2 images but 3 labels"):
        emnist.EMNIST(split="digits").load(tmp_path)


def test_letters_begin_at_zero_or_are_refused(tmp_path: Path, idx_bytes: Any, write_files: Any) -> None:
    contents = official(idx_bytes, "letters")
    contents["emnist-letters-train-labels-idx1-ubyte"] = idx_bytes(np.arange(26))
    write_files(tmp_path / "EMNIST/raw", contents)
    with pytest.raises(UserError, match="labels run from -1 to 24"):
        emnist.EMNIST(split="letters").load(tmp_path)


def test_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.split leters: must be one of byclass, bymerge"):
        data.load("emnist", {"split": "leters"}, tmp_path)
