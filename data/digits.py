"""The 8×8 handwritten digits inside scikit-learn: real data without a download, the default when offline.

Its file is read in `load` without importing it, which would take seconds.
"""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from data.images import DataSet, ImageData, make_split

_FILE = "sklearn/datasets/data/digits.csv.gz"
_TEST_SHARE = 0.2
_SPLIT_SEED = 0


class Digits(DataSet):
    """1,797 images of ten digits, 1×8×8, from 43 writers (Alpaydin and Kaynak 1998, the test half of UCI's
    set).

    The values 0..16 become 0..255 by rounding (half to even). There is no official split of what scikit-learn
    ships: a fixed fifth of each class is the test split. Digits are never flipped.
    """

    def load(self, root: Path) -> ImageData:
        """Read the digits; `root` is not used."""
        rows = np.loadtxt(str(distribution("scikit-learn").locate_file(_FILE)), delimiter=",")
        values, labels = rows[:, :-1], rows[:, -1].astype(np.int64)
        images = np.rint(values.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        test = _stratified(labels)
        return ImageData(
            name="digits",
            train=make_split(images[~test], labels[~test], 10, "digits"),
            test=make_split(images[test], labels[test], 10, "digits"),
            class_names=tuple("0123456789"),
            flips=False,
        )


def _stratified(labels: np.ndarray) -> np.ndarray:
    # RandomState's stream is frozen by numpy's policy, so the split stays the same under later versions.
    random = np.random.RandomState(_SPLIT_SEED)
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        test[members[: round(len(members) * _TEST_SHARE)]] = True
    return test
