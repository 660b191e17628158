"""CIFAR-10 in its official Python layout: the folder cifar-10-batches-py, or its tar archive, read without unpacking.

The batches are pickles. `readers/inert_pickle.py` reads them without running code.
"""

import tarfile
import zlib
from pathlib import Path

import numpy as np

from data.images import DataSet, ImageData, Pad, Sides, Split, make_split
from data.readers import early, files
from data.readers.downloads import fetch_missing
from data.readers.inert_pickle import read_batch
from models.errors import UserError

# URL of the archive, and MD5 of each file in it, from torchvision.datasets.CIFAR10.
FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
URLS = ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",)
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR10(DataSet):
    """Photographs of ten kinds of things, 3×32×32: 50,000 to train, 10,000 to test (Krizhevsky 2009).

    Training flips the images, because mirrored photographs are equally likely.

    Args:
        size: Height and width after scaling, or one number for both. Default: the published size.
    """

    def __init__(self, *, size: Sides = (), pad: Pad = 0) -> None:
        self.size, self.pad = size, pad

    def begin(self, root: Path) -> None:
        if not (root / FOLDER).is_dir() and (root / ARCHIVE).is_file():
            early.begin(_read_archive, root / ARCHIVE)

    def load(self, root: Path) -> ImageData:
        """Read the folder or tar in `root`, or download the tar. Raises UserError for incomplete or altered files."""
        folder, archive = root / FOLDER, root / ARCHIVE
        if all((folder / name).is_file() for name in MD5):
            source, contents = folder, {name: files.read_file(folder / name, md5) for name, md5 in MD5.items()}
        else:
            if not archive.is_file():
                fetch_missing("cifar10", root, {ARCHIVE: URLS}, check=lambda path, file: _read_archive(path))
            source, contents = archive, early.result(_read_archive, archive)
        *train, test = (read_batch(contents[name], f"{source} ({name})") for name in MD5)
        splits = (_join(batches, str(source)) for batches in (train, [test]))
        return ImageData("cifar10", *splits, class_names=CLASS_NAMES, flips=True).fitted(self.size, self.pad)


def _join(batches: list[tuple[np.ndarray, np.ndarray]], source: str) -> Split:
    rows, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    # A row of the array is the red plane, then green, then blue, each in row order.
    return make_split(rows.reshape(-1, 3, 32, 32), labels, len(CLASS_NAMES), source)


def _read_archive(path: Path) -> dict[str, bytes]:
    contents = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix(f"{FOLDER}/")
                if name in MD5 and member.isfile() and (file := archive.extractfile(member)):
                    contents[name] = files.unpack(file.read(files.MAX_BYTES), f"{path} ({name})", MD5[name])
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{path} is cut short or damaged ({error})", "delete it to download it again") from None
    if missing := [name for name in MD5 if name not in contents]:
        raise UserError(f"{path} does not hold {', '.join(missing)}", "delete it to download it again")
    return contents
