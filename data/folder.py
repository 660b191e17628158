"""Your own images: a folder or a zip of image files of any size, with or without class folders.

`readers/layouts.py` turns the names of the images into classes and splits. Other readers list and decode the files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from data.images import Background, Channels, Crop, DataSet, Flips, HeldOutShare, ImageData, Sides, WhiteLevel
from data.readers.layouts import (
    FileNameClasses,
    FolderClasses,
    find_splits,
    hold_out,
    names_look_labelled,
)
from data.readers.trees import Tree, find_tree, open_tree
from models.class_names import shorten_names
from models.errors import UserError
from models.ranges import RESUMABLE


class Folder(DataSet):
    """Images of a folder, zip or tar: `<class>/<image>` or images alone, optionally in `train/` and `test/`.

    Folders named after splits may be above or below the class folders, in any capitalisation. The training folder
    is called train or training, the test folder test or testing. Without a test folder, the folder val, valid,
    validation or dev is the test split. Without split folders, a share of the images is held out by a hash of the image
    names. When images are added or removed, almost all others stay in their splits. Each class keeps an image for
    training, unless the test split would then be empty. A single folder around all images is ignored, so data with only
    one class folder are unlabelled. Classes are sorted by name, with numbers by value: class_2 before class_10. Hidden
    files, system folders and files that are not images are ignored.

    Args:
        path: Folder, zip or tar of images, relative to the current folder or to the data root.
        test_path: Folder, zip or tar of the test images, if they are elsewhere.
        labels: Source of the labels: class folders, or file names without their numbers (cat for cat_1.png).
    """

    def __init__(
        self,
        *,
        path: Annotated[str, RESUMABLE] = "",
        test_path: Annotated[str, RESUMABLE] = "",
        labels: Literal["folders", "names"] = "folders",
        size: Sides = (),
        crop: Crop = True,
        channels: Channels = 3,
        background: Background = "white",
        white_level: WhiteLevel = 0,
        test_share: HeldOutShare = 0.1,
        flips: Flips = False,
    ) -> None:
        from data.readers.pictures import Target

        self.path, self.test_path, self.labels = path, test_path, labels
        self.target = Target.from_options(size, channels, crop, background, white_level)
        self.test_share, self.flips = test_share, flips

    def load(self, root: Path) -> ImageData:
        """List the images, which stay in their files.

        Raises UserError if there are no images, if the two splits have images of different sizes, if the splits are
        unclear, or if the class of an image is unknown.
        """
        from data.readers.streamed import Part, stream

        if not self.path:
            raise UserError("the data set 'folder' needs `dataset.path`: a folder, zip or tar of images")
        tree = test_tree = open_tree(find_tree("dataset.path", self.path, root))
        if self.test_path:
            test_tree = open_tree(find_tree("dataset.test_path", self.test_path, root))
            _check_alone(tree, "dataset.path")
            _check_alone(test_tree, "dataset.test_path")
        splits = find_splits(tree.path, tree.names)
        inside = splits.inside if splits else str
        names = splits.train if splits else tree.names
        shown, by_name = [inside(name) for name in names], self.labels == "names"
        classes = (FileNameClasses if by_name else FolderClasses)(tree.path, shown, self.known_classes)
        labels = {
            name: label for name, label in zip(names, map(classes.label, shown), strict=True) if label is not None
        }
        if splits:
            train, test = splits.train, splits.test
        elif self.test_path:
            train, test = tree.names, test_tree.names
        else:
            train, test = hold_out(tree.path, tree.names, self.test_share, None if self.older else labels)
        for name in test:
            label = classes.label(inside(name))
            if label is None:
                message = f"{test_tree.path}: {name} is in none of the training images' classes"
                ways_out = "sort the test images by the same classes", "move them away, so training images are held out"
                raise UserError(f"{message} ({shorten_names(classes.names)})", *ways_out)
            labels[name] = label
        train_part = Part(tree, train, [labels[name] for name in train])
        test_part = Part(test_tree, test, [labels[name] for name in test])
        notes = [*(splits.notes if splits else ()), *([] if classes.names else _hint(tree.path, train))]
        return stream("folder", train_part, test_part, self.target, classes.names, self.flips, notes)


def _check_alone(tree: Tree, option: str) -> None:
    if find_splits(tree.path, tree.names):
        message = f"`{option}` {tree.path}: has folders of both splits, but `dataset.test_path` names the test images"
        raise UserError(message, "leave out `dataset.test_path`", f"name the folder of one split with `{option}`")


def _hint(path: Path, names: Sequence[str]) -> list[str]:
    classes = names_look_labelled(names)
    text = f"{path}: the file names look like labels ({shorten_names(classes)}); set `dataset.labels` names to use them"
    return [text] if classes else []
