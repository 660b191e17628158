"""The digits of scikit-learn: exact values, and a split that never changes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from data.digits import Digits

DIGITS = Digits().load(Path("unused"))


def test_shapes_and_facts() -> None:
    assert DIGITS.name == "digits" and DIGITS.flips is False
    assert DIGITS.class_names == tuple("0123456789")
    for split, count in ((DIGITS.train, 1438), (DIGITS.test, 359)):
        assert split.images.shape == (count, 1, 8, 8) and split.images.dtype == torch.uint8
        assert split.labels.shape == (count,) and split.labels.dtype == torch.int64
        assert len(split) == count


def test_values_are_the_published_ones_and_span_the_range() -> None:
    images = torch.cat([DIGITS.train.in_memory(), DIGITS.test.in_memory()]).numpy().reshape(-1, 64)
    labels = torch.cat([DIGITS.train.labels, DIGITS.test.labels]).numpy()
    ours = {
        (np.rint(image * (16 / 255)).astype(int).tobytes(), int(label))
        for image, label in zip(images, labels, strict=True)
    }
    values, targets = load_digits(return_X_y=True)
    theirs = {(row.astype(int).tobytes(), int(label)) for row, label in zip(values, targets, strict=True)}
    assert ours == theirs and images.min() == 0 and images.max() == 255
    assert set(np.unique(images)) == {round(value * 255 / 16) for value in range(17)}


def test_split_is_disjoint_and_stratified() -> None:
    train, test = ({image.tobytes() for image in split.in_memory().numpy()} for split in (DIGITS.train, DIGITS.test))
    assert not train & test
    for label in range(10):
        test_count = int((DIGITS.test.labels == label).sum())
        count = test_count + int((DIGITS.train.labels == label).sum())
        assert test_count == round(count * 0.2)


def test_split_is_pinned() -> None:
    assert hashlib.sha256(DIGITS.test.in_memory().numpy().tobytes()).hexdigest()[:16] == "2f5eb12f1dfec8a2"
