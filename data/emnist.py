"""EMNIST in its six splits, read from torchvision's layout or downloaded.

The folder EMNIST/raw has either the files of a split, uncompressed or gzipped, or the published archive gzip.zip, which
is read without unpacking.
"""

import hashlib
import string
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from data.images import DataSet, ImageData, Pad, Sides, Split, make_split
from data.readers import early, files, idx
from data.readers.downloads import fetch_missing
from models.errors import UserError

# The address and the hash of torchvision.datasets.EMNIST. No hash of the files inside the archive is published.
ARCHIVE = "gzip.zip"
URLS = ("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",)
ARCHIVE_MD5 = "58c8d27c78d21e728a6bc7b3cc06412e"

# In bymerge and balanced, a letter whose two cases look alike is one class.
_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"
CLASS_NAMES: dict[str, str] = {
    "byclass": string.digits + string.ascii_uppercase + string.ascii_lowercase,
    "bymerge": _MERGED,
    "balanced": _MERGED,
    "letters": string.ascii_lowercase,
    "digits": string.digits,
    "mnist": string.digits,
}


class EMNIST(DataSet):
    """Handwritten digits and letters, 1×28×28 (Cohen et al. 2017). Never flipped.

    The published images are transposed and the labels of `letters` start at 1. Here images are upright and labels start
    at 0. gzip.zip is checked against its published MD5. For files outside gzip.zip, no hash is published: these files
    are checked by gzip's own checksum, their headers and the range of their labels.

    Args:
        split: byclass has 814,255 images, 62 classes of unequal size. bymerge has the same images in 47 classes: 15
            letters have both cases in one class. balanced has 131,600 images, 47 classes of equal size. letters has 26
            classes, each with both cases. digits and mnist have 10 classes, 280,000 and 70,000 images.
        size: Height and width after scaling, or one number for both. Default: the published size.
    """

    def __init__(
        self,
        *,
        split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced",
        size: Sides = (),
        pad: Pad = 0,
    ) -> None:
        self.split, self.size, self.pad = split, size, pad

    @property
    def _parts(self) -> list[str]:
        return [f"emnist-{self.split}-{part}" for part in ("train", "test")]

    def _loose_files(self, folder: Path) -> dict[str, Path]:
        """Return the paths of the split's four files by name; {} if not all four exist outside the archive."""
        paths = {file: _locate(folder, file) for part in self._parts for file in _pair(part)}
        found = {file: path for file, path in paths.items() if path is not None}
        return found if len(found) == len(paths) else {}

    def begin(self, root: Path) -> None:
        folder = root / "EMNIST" / "raw"
        loose = self._loose_files(folder)
        for path in loose.values():
            early.begin(files.read_file, path)
        if not loose and (folder / ARCHIVE).is_file():
            early.begin(_check_archive, folder / ARCHIVE)

    def load(self, root: Path) -> ImageData:
        """Read the four files of the split, or download gzip.zip. Raises UserError for incomplete or altered files."""
        folder = root / "EMNIST" / "raw"
        loose = self._loose_files(folder)
        if not loose and not (folder / ARCHIVE).is_file():
            fetch_missing("emnist", folder, {ARCHIVE: URLS}, check=lambda path, file: _check_archive(path))
        elif not loose:
            early.result(_check_archive, folder / ARCHIVE)
        train, test = (self._read_part(folder, part, loose) for part in self._parts)
        loaded = ImageData("emnist", train, test, class_names=tuple(CLASS_NAMES[self.split]), flips=False)
        return loaded.fitted(self.size, self.pad)

    def _read_part(self, folder: Path, part: str, loose: Mapping[str, Path]) -> Split:
        images, labels = (_array(folder, file, loose.get(file)) for file in _pair(part))
        if images.ndim != 3:
            raise UserError(f"{folder} ({part}): images of shape {images.shape}, expected three axes")
        if self.split == "letters":
            labels = labels.astype(np.int64) - 1
        upright = images.transpose(0, 2, 1)
        return make_split(upright, labels, len(CLASS_NAMES[self.split]), f"{folder} ({part})")


def _pair(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def _locate(folder: Path, file: str) -> Path | None:
    # Unpacking gzip.zip by hand leaves the files in raw/gzip.
    return files.locate_file(folder, file) or files.locate_file(folder / "gzip", file)


def _array(folder: Path, file: str, path: Path | None) -> np.ndarray:
    """Read a file of the split. path: None if it lies in the archive."""
    if path is not None:
        return idx.parse_idx(early.result(files.read_file, path), str(path))
    source = f"{folder / ARCHIVE} ({file}.gz)"
    try:
        with zipfile.ZipFile(folder / ARCHIVE) as archive, archive.open(f"gzip/{file}.gz") as member:
            stored = member.read(files.MAX_BYTES)
    except (KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{source} cannot be read ({error})", "delete or replace the archive") from None
    return idx.parse_idx(files.unpack(stored, source), source)


def _check_archive(path: Path) -> None:
    try:
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if md5 != ARCHIVE_MD5:
        message = f"{path} is cut short or altered (its MD5 is {md5}, published {ARCHIVE_MD5})"
        raise UserError(message, "delete it to download it again")
