"""Fashion-MNIST, read from torchvision's layout (FashionMNIST/raw, uncompressed or gzipped) or downloaded."""

from pathlib import Path

from data.images import DataSet, ImageData, Pad, Sides
from data.readers.idx import begin_idx_set, load_idx_set

# The mirror of torchvision.datasets.FashionMNIST.
MIRRORS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)

# MD5 of the uncompressed files, so that any gzip container of the same contents is accepted.
MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}

CLASS_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


class FashionMNIST(DataSet):
    """Clothing, 1×28×28: 60,000 to train, 10,000 to test (Xiao et al. 2017).

    Never flipped: nearly all shoes point the same way, so mirrored ones would be other data.

    Args:
        size: Height and width after scaling, or one number for both. Default: the published size.
    """

    def __init__(self, *, size: Sides = (), pad: Pad = 0) -> None:
        self.size, self.pad = size, pad

    def begin(self, root: Path) -> None:
        begin_idx_set(root / "FashionMNIST" / "raw", MD5)

    def load(self, root: Path) -> ImageData:
        """Read the files in `root`/FashionMNIST/raw, and download missing ones. Raises UserError for altered files."""
        folder = root / "FashionMNIST" / "raw"
        train, test = load_idx_set("fashion_mnist", folder, MIRRORS, MD5, classes=10)
        return ImageData("fashion_mnist", train, test, class_names=CLASS_NAMES, flips=False).fitted(self.size, self.pad)
