"""MNIST, read from torchvision's layout (MNIST/raw, uncompressed or gzipped) or downloaded."""

from pathlib import Path

from data.images import DataSet, ImageData, Pad, Sides
from data.readers.idx import begin_idx_set, load_idx_set

# The mirrors of torchvision.datasets.MNIST.
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")

# MD5 of the uncompressed files, so that any gzip container of the same contents is accepted.
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class MNIST(DataSet):
    """Handwritten digits, 1×28×28: 60,000 to train, 10,000 to test (LeCun et al. 1998). Never flipped.

    Args:
        size: Height and width after scaling, or one number for both. Default: the published size.
    """

    def __init__(self, *, size: Sides = (), pad: Pad = 0) -> None:
        self.size, self.pad = size, pad

    def begin(self, root: Path) -> None:
        begin_idx_set(root / "MNIST" / "raw", MD5)

    def load(self, root: Path) -> ImageData:
        """Read the four files in `root`/MNIST/raw, and download missing ones. Raises UserError for altered files."""
        train, test = load_idx_set("mnist", root / "MNIST" / "raw", MIRRORS, MD5, classes=10)
        return ImageData("mnist", train, test, class_names=tuple("0123456789"), flips=False).fitted(self.size, self.pad)
