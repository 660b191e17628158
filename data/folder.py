"""Your own images: a folder or a zip of them, with or without class folders, of any size.

Reading the tree and decoding the files stand in `sources`; here is what the names mean: classes and splits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from data.images import DataSet, ImageData
from data.readers.trees import Tree, check_share, common_folder, find_tree, hold_out, open_tree
from models.errors import UserError
from models.ranges import RESUMABLE

_TEST_NAMES = ("test", "val")


class Folder(DataSet):
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
        path: Annotated[str, RESUMABLE] = "",
        test_path: Annotated[str, RESUMABLE] = "",
        size: tuple[int, ...] = (),
        crop: bool = True,
        channels: int = 3,
        test_share: float = 0.1,
        flips: bool = False,
    ) -> None:
        from data.readers.pictures import Target

        self.path, self.test_path, self.flips = path, test_path, flips
        self.target = Target.of_flags(size, channels, crop)
        self.test_share = check_share(test_share)

    def load(self, root: Path) -> ImageData:
        """Find all images, and leave them in their files.

        Raises UserError if the folder is absent or empty, if the splits differ in size, or naming an image whose
        class is unknown.
        """
        from data.readers.streamed import Part, stream

        if not self.path:
            raise UserError("the data set folder needs --dataset.path: a folder or a zip of images")
        tree = test_tree = open_tree(find_tree(self.path, root))
        if self.test_path:
            test_tree = open_tree(find_tree(self.test_path, root))
            train, test, known = tree.names, test_tree.names, tree.names
        elif official := _official_split(tree):
            train, test, known = *official, official[0]
        else:
            train, test, known = *hold_out(tree, self.test_share), tree.names
        classes = _Classes(tree, known)
        train_part, test_part = (
            Part(where, names, [classes.label(where, name) for name in names])
            for where, names in ((tree, train), (test_tree, test))
        )
        return stream("folder", train_part, test_part, self.target, classes.names, self.flips)


class _Classes:
    """The class folders among the images `known` of a tree; `names` is empty where there are none."""

    def __init__(self, tree: Tree, known: list[str]) -> None:
        self._around = common_folder(known)
        inside = [name.removeprefix(self._around) for name in known]
        alone = [name for name in inside if "/" not in name]
        if alone and len(alone) < len(inside):
            raise UserError(f"{tree.path} has images beside its class folders ({alone[0]}): move them into one, or out")
        self.names = () if alone else tuple(sorted({name.partition("/")[0] for name in inside}))
        self._labels = {name: label for label, name in enumerate(self.names)}

    def label(self, tree: Tree, name: str) -> int:
        """Place among `names` of the class folder that an image is in; 0 where there are no classes."""
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
        raise UserError(f"{tree.path} has train/ and {test}/, but also {others[0]}: move it elsewhere")
    return tops["train"], tops[test]
