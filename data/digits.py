"""The 8×8 handwritten digits inside scikit-learn: real data without a download, the default when offline.

scikit-learn is imported, and its file read, in `load` only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.images import ImageData, make_split

_TEST_SHARE = 0.2
_SPLIT_SEED = 0


class Digits:
    """1,797 images of ten digits, 1×8×8, from 43 writers (Alpaydin and Kaynak 1998, the test half of UCI's
    set).

    The values 0..16 become 0..255 by rounding (half to even). There is no official split of what scikit-learn
    ships: a fixed fifth of each class is the test split. Digits are never flipped.
    """

    def load(self, root: Path) -> ImageData:
        """Read the digits; `root` is not used."""
        from sklearn.datasets import load_digits

        values, labels = map(np.asarray, load_digits(return_X_y=True))
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
