"""The 8×8 handwritten digits that scikit-learn includes: real data without a download.

The file is read without importing scikit-learn, which would take seconds.
"""

from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from data.images import DataSet, ImageData, Pad, Sides, make_split

_FILE = "sklearn/datasets/data/digits.csv.gz"
_TEST_SHARE = 0.2
_SPLIT_SEED = 0


class Digits(DataSet):
    """Handwritten digits, 1×8×8: 1,797 images by 13 writers (Alpaydin and Kaynak 1998, the test set of UCI's data).

    The values 0..16 become 0..255, rounded half to even. A fixed fifth of each class is the test split. Never flipped.

    Args:
        size: Height and width after scaling, or one number for both. Default: the published size.
    """

    def __init__(self, *, size: Sides = (), pad: Pad = 0) -> None:
        self.size, self.pad = size, pad

    def load(self, root: Path) -> ImageData:
        """Read the digits. `root` is not used."""
        rows = np.loadtxt(str(distribution("scikit-learn").locate_file(_FILE)), delimiter=",")
        values, labels = rows[:, :-1], rows[:, -1].astype(np.int64)
        images = np.rint(values.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        test = _stratified(labels)
        splits = (make_split(images[rows], labels[rows], 10, "digits") for rows in (~test, test))
        return ImageData("digits", *splits, class_names=tuple("0123456789"), flips=False).fitted(self.size, self.pad)


def _stratified(labels: np.ndarray) -> np.ndarray:
    # numpy's policy freezes the stream of RandomState, so later versions give the same split.
    random = np.random.RandomState(_SPLIT_SEED)
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        test[members[: round(len(members) * _TEST_SHARE)]] = True
    return test
