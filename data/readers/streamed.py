"""Images that stay in their files: decoded when rows of them are asked for, with others in the place of broken ones.

Reading all of them into memory stands in `pictures.py`; decoding ahead of a training loop in `ahead.py`.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.images import ImageData, Split
from data.readers.pictures import (
    BROKEN,
    CHUNK,
    Shape,
    Target,
    check_memory,
    decode_all,
    decode_as,
    decoding_threads,
    one_line,
    quiet,
)
from data.readers.trees import Tree
from models.errors import UserError

# More broken pictures than both of these end a run: it would learn other data than it was given.
MOST_BROKEN, BROKEN_SHARE = 20, 0.01


class Broken:
    """The pictures of a data set that could not be decoded while it streams: each is told once, too many are refused.

    `named` holds the reason of each by its name, `seen` counts the images that were asked for, and `elsewhere` those of
    other processes.
    """

    def __init__(self, place: str, total: int) -> None:
        self.place, self.total, self.seen, self.elsewhere = place, total, 0, 0
        self.named: dict[str, str] = {}
        self._tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr)

    def tell_to(self, tell: Callable[[str], None]) -> None:
        """Tells those so far and all that come; before, they go to standard error."""
        self._tell = tell
        for number, name in enumerate(self.named, start=1):
            self._tell(self._line(number, name))

    def note(self, seen: int, bad: Mapping[str, str]) -> None:
        """Counts `seen` images, among which `bad` ones were met. Raises UserError once they are too many."""
        self.seen += seen
        self._note(bad)

    def merge(self, of_processes: Sequence[tuple[int, Mapping[str, str]]]) -> None:
        """Takes over what every process, this one among them, has `seen` and `named`, in one order for all of them.
        Raises UserError as `note` does."""
        self.elsewhere = sum(seen for seen, _ in of_processes) - self.seen
        for _, named in of_processes:
            self._note(named)

    def _note(self, bad: Mapping[str, str]) -> None:
        for name, reason in bad.items():
            if name in self.named:
                continue
            self.named[name] = reason
            self._tell(self._line(len(self.named), name))
        among = min(self.seen + self.elsewhere, self.total)
        if len(self.named) > max(MOST_BROKEN, BROKEN_SHARE * among):
            name, reason = next(iter(self.named.items()))
            raise UserError(
                f"{self.place}: {len(self.named)} of the first {among} images cannot be used, as {name} ({reason}): "
                "repair or remove them"
            )

    def _line(self, number: int, name: str) -> str:
        return (
            f"{self.place}: {name} cannot be used ({self.named[name]}), number {number} of this kind; the next image "
            "of its class stands in for it"
        )


@dataclass(frozen=True)
class Part:
    """A split before anything of it is decoded: images `names` of a tree, each with its label."""

    tree: Tree
    names: Sequence[str]
    labels: Sequence[int]

    def sha256(self, target: Target) -> str:
        """What tells it from other data, without reading an image: names, sizes, checksums, labels, and the target."""
        digest = hashlib.sha256(repr(target).encode())
        for name, label in zip(self.names, self.labels, strict=True):
            try:
                stamp = self.tree.stamp(name)
            except OSError:  # a link to nowhere: one of the pictures that cannot be decoded
                stamp = "unreadable"
            digest.update(f"\n{name}\0{stamp}\0{label}".encode(errors="surrogateescape"))
        return digest.hexdigest()


class Streamed:
    """Images `names` of a tree, decoded when they are asked for; otherwise like a uint8 tensor (N, C, H, W).

    In the place of a picture that cannot be decoded comes the next of its class that can: the same one in every
    process and at every time, and the labels stay true. Indexing takes rows as a tensor, a list or a slice.
    """

    dtype = torch.uint8

    def __init__(self, part: Part, target: Target, shape: Shape, broken: Broken) -> None:
        self.tree, self.names, self.target, self.broken = part.tree, part.names, target, broken
        self.shape = torch.Size((len(part.names), *shape.sides))
        self._shape, self._labels = shape, np.array(part.labels)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Tensor | Sequence[int] | slice) -> Tensor:
        """uint8 (n, C, H, W). Raises UserError for more than fit in the free memory, or too many broken ones."""
        numbers = torch.arange(len(self))[rows].tolist()
        check_memory(len(numbers), self.shape[1:])
        images = np.empty((len(numbers), *self.shape[1:]), np.uint8)

        def work(first: int) -> tuple[int, dict[str, str]]:
            part = images[first : first + CHUNK]
            return len(part), self.decode(numbers[first : first + CHUNK], part)

        with quiet(), decoding_threads() as workers:
            for seen, bad in workers.map(work, range(0, len(numbers), CHUNK)):
                self.broken.note(seen, bad)
        return torch.from_numpy(images)

    def split(self, size: int) -> Iterator[Tensor]:
        """All images, `size` at a time."""
        return (self[first : first + size] for first in range(0, len(self), size))

    def decode(self, rows: Sequence[int], images: np.ndarray) -> dict[str, str]:
        """Fills `images` (n, C, H, W) with these rows, and says which pictures are broken, and why.

        Raises UserError where a class has no picture that can be decoded.
        """
        bad: dict[str, str] = {}
        for place, row in enumerate(rows):
            for other in self._in_turn(row):
                name = self.names[other]
                try:
                    images[place] = decode_as(self.tree, name, self.target, self._shape)
                    break
                except BROKEN as error:
                    bad[name] = one_line(error)
            else:
                name = self.names[row]
                raise UserError(f"{self.tree.path}: no image of the class of {name} can be used ({bad[name]})")
        return bad

    def _in_turn(self, row: int) -> Iterator[int]:
        """The row, then the others of its class, in order and round the end."""
        yield row
        alike = np.flatnonzero(self._labels == self._labels[row])
        yield from np.roll(alike, -np.searchsorted(alike, row))[1:].tolist()


def read_both(train: Streamed, test: Streamed) -> tuple[Tensor, Tensor]:
    """All images of both, in memory. Raises UserError naming those that are broken, or that do not fit."""
    if test.tree is train.tree:  # in one go, so that all broken images are named at once
        images = torch.from_numpy(decode_all(train.tree, [*train.names, *test.names], train.target))
        return images[: len(train)], images[len(train) :]
    first, second = (torch.from_numpy(decode_all(each.tree, each.names, each.target)) for each in (train, test))
    return first, second


def stream(name: str, train: Part, test: Part, target: Target, class_names: tuple[str, ...], flips: bool) -> ImageData:
    """A data set whose images stay in their files. Raises UserError where the two parts differ in size."""
    if test.tree is train.tree:
        shape = test_shape = Shape.of(train.tree, [*train.names, *test.names], target)
    else:
        shape, test_shape = (Shape.of(part.tree, part.names, target) for part in (train, test))
    if shape.sides != test_shape.sides:
        (height, width), (test_height, test_width) = shape.sides[1:], test_shape.sides[1:]
        raise UserError(
            f"images of {train.tree.path} are {height}×{width}, of {test.tree.path} {test_height}×{test_width}: "
            "choose a --dataset.size"
        )
    broken = Broken(str(train.tree.path), len(train.names) + len(test.names))
    splits = (
        Split(Streamed(part, target, shape, broken), torch.tensor(part.labels), part.sha256(target))
        for part in (train, test)
    )
    return ImageData(name, *splits, class_names=class_names, flips=flips, broken=broken)
