"""Your own images: a folder or a zip of image files of any size, with or without class folders.

This file turns the names of the images into classes and splits. `readers` lists and decodes the files.
"""

from pathlib import Path
from typing import Annotated, Literal

from data.images import DataSet, HeldOutShare, ImageData, Sides
from data.readers.trees import Tree, common_folder, find_tree, hold_out, open_tree
from models.errors import UserError
from models.ranges import RESUMABLE, NonNegativeInt

_TEST_NAMES = ("test", "val")


class Folder(DataSet):
    """Images of a folder or zip: `<class>/<image>` or images alone, optionally below `train/` and `test/`.

    Without `test/` (or `val/`) a share of the images is held out by a hash of their names, so an image stays in its
    split when other images are added or removed. A single folder around all images is ignored, so data with only one
    class folder are unlabelled. Hidden files and files that are not images are ignored.

    Args:
        path: Folder or zip of images, relative to the current folder or to the data root.
        test_path: Folder or zip of the test images, if they are elsewhere.
        size: Height and width of every image, or one number for both. Default: the images' own size, which must be
            the same for all.
        crop: Crop to the largest centred box with the aspect ratio of size, then scale. Otherwise, stretch the image.
        channels: 3 for colour, 1 for grayscale, 4 for colour with transparency.
        background: Colour under transparent parts, if channels is not 4.
        white_level: Value in the files that becomes white, such as 4095 for 12 bits in 16. It is ignored for files
            whose values cannot be larger. Default: the largest value of the file's type.
        test_share: Share of the images held out for testing if there are no test images.
        flips: Mirror images at random in training. Use it only if mirrored images are equally likely.
    """

    def __init__(
        self,
        *,
        path: Annotated[str, RESUMABLE] = "",
        test_path: Annotated[str, RESUMABLE] = "",
        size: Sides = (),
        crop: bool = True,
        channels: Literal[1, 3, 4] = 3,
        background: Literal["white", "black", "grey"] = "white",
        white_level: NonNegativeInt = 0,
        test_share: HeldOutShare = 0.1,
        flips: bool = False,
    ) -> None:
        from data.readers.pictures import Target

        self.path, self.test_path = path, test_path
        self.target = Target.from_options(size, channels, crop, background, white_level)
        self.test_share, self.flips = test_share, flips

    def load(self, root: Path) -> ImageData:
        """List the images, which stay in their files.

        Raises UserError if there are none, if the splits differ in size, or if the class of an image is unknown.
        """
        from data.readers.streamed import Part, stream

        if not self.path:
            raise UserError("the data set folder needs `dataset.path`, a folder or a zip of images")
        tree = test_tree = open_tree(find_tree("dataset.path", self.path, root))
        if self.test_path:
            test_tree = open_tree(find_tree("dataset.test_path", self.test_path, root))
            train, test, classified = tree.names, test_tree.names, tree.names
        elif official := _official_split(tree):
            train, test, classified = *official, official[0]
        else:
            train, test, classified = *hold_out(tree, self.test_share), tree.names
        classes = _Classes(tree, classified)
        train_part, test_part = (
            Part(source, names, [classes.label(source, name) for name in names])
            for source, names in ((tree, train), (test_tree, test))
        )
        return stream("folder", train_part, test_part, self.target, classes.names, self.flips)


class _Classes:
    """Class folders of a tree. names: the folders in alphabetical order, empty if there are none."""

    def __init__(self, tree: Tree, images: list[str]) -> None:
        self._around = common_folder(images)
        inside = [name.removeprefix(self._around) for name in images]
        alone = [name for name in inside if "/" not in name]
        if alone and len(alone) < len(inside):
            message = f"{tree.path} has images beside its class folders ({alone[0]})"
            raise UserError(message, "move them into a class folder or away")
        self.names = () if alone else tuple(sorted({name.partition("/")[0] for name in inside}))
        self._labels = {name: label for label, name in enumerate(self.names)}

    def label(self, tree: Tree, name: str) -> int:
        """Return the index in `names` of the class folder of an image, 0 if there are no classes."""
        if not self.names:
            return 0
        folders = name.removeprefix(self._around).split("/")[:-1]
        label = next((self._labels[folder] for folder in folders if folder in self._labels), None)
        if label is None:
            raise UserError(f"{tree.path}: {name} is in none of the training images' classes ({', '.join(self.names)})")
        return label


def _official_split(tree: Tree) -> tuple[list[str], list[str]] | None:
    around = common_folder(tree.names)
    tops: dict[str, list[str]] = {}
    for name in tree.names:
        tops.setdefault(name[len(around) :].partition("/")[0], []).append(name)
    test = next((top for top in _TEST_NAMES if top in tops), None)
    if "train" not in tops or test is None:
        return None
    if others := sorted(tops.keys() - {"train", *_TEST_NAMES}):
        raise UserError(f"{tree.path} has train/ and {test}/, but also {others[0]}", "move it elsewhere")
    return tops["train"], tops[test]
