"""Your own images: a folder or a zip of them, with or without class folders, of any size.

Reading the tree and decoding the files stand in `sources`; here is what the names mean: classes and splits.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.images import ImageData, Split, make_split
from data.sources.trees import Tree, open_tree

_TEST_NAMES = ("test", "val")


class Folder:
    """Images of a folder or zip: `<class>/<image>` or images alone, optionally below `train/` and `test/`.

    Without `test/` (or `val/`) a share of the images is held out by a hash of their names, so that an image
    stays in its split when others come or go. A single folder around everything counts as nothing, hence one
    class alone is unlabelled data. Hidden files and files that are not images are passed over.

    Args:
        path: Folder or zip of images; a relative one is looked for here, then in the data root.
        test_path: Folder or zip of the test images, if they are elsewhere.
        size: Height and width, or one number for both, of every image. Default: the images' own, which must
            then be the same for all.
        crop: Cut the centre of that shape before scaling; otherwise the whole image is squeezed into it.
        channels: 3 for colour, 1 for grayscale.
        test_share: Share held out for testing where there are no test images.
        flips: Mirror images at random in training: only if a mirrored image is as likely as the image.
    """

    def __init__(
        self,
        *,
        path: str = "",
        test_path: str = "",
        size: tuple[int, ...] = (),
        crop: bool = True,
        channels: int = 3,
        test_share: float = 0.1,
        flips: bool = False,
    ) -> None:
        if len(size) > 2 or not all(1 <= side <= 4096 for side in size):
            raise DataError(f"--dataset.size {' '.join(map(str, size))}: give one or two numbers from 1 to 4096")
        if channels not in (1, 3):
            raise DataError(f"--dataset.channels {channels}: 1 (grayscale) or 3 (colour)")
        if not 0 < test_share < 1:
            raise DataError(f"--dataset.test_share {test_share}: give a share between 0 and 1")
        self.path, self.test_path = path, test_path
        self.size = (size[0], size[-1]) if size else None
        self.crop, self.channels = crop, channels
        self.test_share, self.flips = test_share, flips

    def load(self, root: Path) -> ImageData:
        """Read all images into memory.

        Raises DataError if the folder is absent or empty, or naming the images that cannot be decoded, that
        differ in size, or whose class is unknown.
        """
        if not self.path:
            raise DataError("the data set folder needs --dataset.path: a folder or a zip of images")
        tree = test_tree = open_tree(_find(self.path, root))
        if self.test_path:
            test_tree = open_tree(_find(self.test_path, root))
            train, test, known = tree.names, test_tree.names, tree.names
        elif official := _official_split(tree):
            train, test, known = *official, official[0]
        else:
            train, test, known = *_hold_out(tree, self.test_share), tree.names
        classes = _Classes(tree, known)
        train_labels = [classes.label(tree, name) for name in train]
        test_labels = [classes.label(test_tree, name) for name in test]
        train_images, test_images = self._decode(tree, train, test_tree, test)

        def split(images: np.ndarray, labels: list[int], place: Path) -> Split:
            return make_split(images, np.array(labels), max(len(classes.names), 1), str(place))

        return ImageData(
            name="folder",
            train=split(train_images, train_labels, tree.path),
            test=split(test_images, test_labels, test_tree.path),
            class_names=classes.names,
            flips=self.flips,
        )

    def _decode(self, tree: Tree, train: list[str], test_tree: Tree, test: list[str]) -> list[np.ndarray]:
        from data.sources.pictures import Target, decode_all

        target = Target(self.size, self.channels, self.crop)
        if test_tree is tree:  # in one go, so that all broken images are named at once
            return np.split(decode_all(tree, train + test, target), [len(train)])
        pair = [decode_all(tree, train, target), decode_all(test_tree, test, target)]
        (height, width), (test_height, test_width) = (images.shape[2:] for images in pair)
        if (height, width) != (test_height, test_width):
            raise DataError(
                f"images of {tree.path} are {height}×{width}, of {test_tree.path} {test_height}×{test_width}: "
                "choose a --dataset.size"
            )
        return pair


class _Classes:
    """The class folders among the images `known` of a tree; `names` is empty where there are none."""

    def __init__(self, tree: Tree, known: list[str]) -> None:
        self._around = _around(known)
        inside = [name.removeprefix(self._around) for name in known]
        alone = [name for name in inside if "/" not in name]
        if alone and len(alone) < len(inside):
            raise DataError(f"{tree.path} has images beside its class folders ({alone[0]}): move them into one, or out")
        self.names = () if alone else tuple(sorted({name.partition("/")[0] for name in inside}))
        self._labels = {name: label for label, name in enumerate(self.names)}

    def label(self, tree: Tree, name: str) -> int:
        """Place among `names` of the class folder that an image is in; 0 where there are no classes."""
        if not self.names:
            return 0
        folders = name.removeprefix(self._around).split("/")[:-1]
        label = next((self._labels[folder] for folder in folders if folder in self._labels), None)
        if label is None:
            raise DataError(f"{tree.path}: {name} is in none of the training images' classes ({', '.join(self.names)})")
        return label


def _find(path: str, root: Path) -> Path:
    here = Path(path).expanduser()
    if here.exists() or here.is_absolute():
        return here
    if (root / here).exists():
        return root / here
    raise DataError(f"{path} is neither in {Path.cwd()} nor in {root}: name a folder or a zip of images")


def _around(names: list[str]) -> str:
    """The folders, with a closing slash, that all the images are in; empty if there is none."""
    around = ""
    while True:
        tops = {name[len(around) :].partition("/")[:2] for name in names}
        top, slash = next(iter(tops))
        if len(tops) > 1 or not slash:
            return around
        around += f"{top}/"


def _official_split(tree: Tree) -> tuple[list[str], list[str]] | None:
    around = _around(tree.names)
    tops: dict[str, list[str]] = {}
    for name in tree.names:
        tops.setdefault(name[len(around) :].partition("/")[0], []).append(name)
    test = next((top for top in _TEST_NAMES if top in tops), None)
    if "train" not in tops or test is None:
        return None
    if others := sorted(tops.keys() - {"train", *_TEST_NAMES}):
        raise DataError(f"{tree.path} has train/ and {test}/, but also {others[0]}: move it elsewhere")
    return tops["train"], tops[test]


def _hold_out(tree: Tree, share: float) -> tuple[list[str], list[str]]:
    """Train and test names; at least one of each."""
    if len(tree.names) < 2:
        raise DataError(f"{tree.path} holds one image: at least two are needed, one to train and one to test")
    around = _around(tree.names)
    by_hash = sorted(tree.names, key=lambda name: _fraction(name[len(around) :]))
    held = sum(_fraction(name[len(around) :]) < share for name in by_hash)
    held = min(max(held, 1), len(by_hash) - 1)
    return sorted(by_hash[held:]), sorted(by_hash[:held])


def _fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:6]) / 2**48
