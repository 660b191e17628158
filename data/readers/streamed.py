"""Images that stay in their files and are decoded when they are indexed. `ahead.py` decodes them in advance."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from data.images import ImageData, Split
from data.readers.decoding import BROKEN
from data.readers.pictures import (
    Target,
    decode_all,
    decode_as,
    empty_images,
    find_shape,
    in_threads,
    one_line,
    ways_out,
)
from data.readers.survey import Survey
from data.readers.trees import Tree
from models.class_names import shorten_names
from models.errors import UserError

# A run stops if the number of broken images exceeds both limits, because many replacements would change the data.
MOST_BROKEN, BROKEN_SHARE = 20, 0.01
MOST_LOOKED_AT = 64  # Streamed images that are decoded at the start to see whether they look wrong.
_DECODING = 1  # Version of the decoding. Increase it if decoded pixels change, so that caches are renewed.


class Broken:
    """Record of the images of a streamed data set that cannot be decoded. Each is reported once; too many end the run.

    named: reasons by image name. seen: images read by this process. elsewhere: images read by all other processes.
    """

    def __init__(self, source: str, total: int) -> None:
        self.source, self.total, self.seen, self.elsewhere = source, total, 0, 0
        self.named: dict[str, str] = {}
        self._tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr)

    def tell_to(self, tell: Callable[[str], None]) -> None:
        """Report all broken images, including earlier ones, to `tell` instead of standard error."""
        self._tell = tell
        for number, name in enumerate(self.named, start=1):
            self._report(number, name)

    def note(self, seen: int, broken: Mapping[str, str]) -> None:
        """Count `seen` images, and record the reasons of those that are `broken`. Raises UserError if too many are."""
        self.seen += seen
        self._record(broken)

    def merge(self, processes: Sequence[tuple[int, Mapping[str, str]]]) -> None:
        """Merge `seen` and `named` of all processes, this one included. Every process must pass the same sequence.

        Raises UserError if too many images are broken.
        """
        self.elsewhere = sum(seen for seen, _ in processes) - self.seen
        for _, named in processes:
            self._record(named)

    def _record(self, broken: Mapping[str, str]) -> None:
        for name, reason in broken.items():
            if name not in self.named:
                self.named[name] = reason
                self._report(len(self.named), name)
        among = min(self.seen + self.elsewhere, self.total)
        if len(self.named) > max(MOST_BROKEN, BROKEN_SHARE * among):
            name, reason = next(iter(self.named.items()))
            count = f"{len(self.named)} of the first {among} images"
            raise UserError(
                f"{self.source}: {count} cannot be used, such as {name} ({reason})", *ways_out(self.named.values())
            )

    def _report(self, number: int, name: str) -> None:
        self._tell(
            f"{self.source}: {name} cannot be used ({self.named[name]}). It is broken image number {number} and is "
            "replaced by the next image of its class"
        )


@dataclass(frozen=True)
class Part:
    """Split before decoding: the images `names` of a tree, each with its label."""

    tree: Tree
    names: Sequence[str]
    labels: Sequence[int]

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """Yield name, stamp and label of each image. No image is read."""
        for name, label in zip(self.names, self.labels, strict=True):
            try:
                yield name, self.tree.stamp(name), label
            except OSError:  # a broken link, which counts as a broken image
                yield name, "unreadable", label

    def sha256(self, target: Target) -> str:
        """Return the hash of names, sizes, stored checksums, labels and target. No image is read."""
        digest = hashlib.sha256(repr(target).encode())
        for name, stamp, label in self.rows():
            digest.update(f"\n{name}\0{stamp}\0{label}".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def contents(self, target: Target, read: bool) -> str | None:
        """Return the hash of file contents, labels and target; None if files must be read but `read` is False."""
        digests = self.tree.digests.of(self.names, read)
        if digests is None:
            return None
        rows = "".join(f"\n{digest} {label}" for digest, label in zip(digests, self.labels, strict=True))
        return hashlib.sha256(f"{_DECODING} {target!r}{rows}".encode()).hexdigest()


class Streamed:
    """Images of a split, decoded when rows are read. They are indexed like a uint8 tensor (N, C, H, W).

    A broken image is replaced by the next decodable image of its class, which is the same in every process.
    """

    dtype = torch.uint8

    def __init__(self, part: Part, target: Target, shape: Sequence[int], broken: Broken) -> None:
        self.tree, self.names, self.target, self.broken = part.tree, part.names, target, broken
        self.shape = torch.Size((len(part.names), *shape))
        self._labels = np.array(part.labels)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Tensor | Sequence[int] | slice) -> Tensor:
        """Return uint8 (n, C, H, W). Raises UserError for too many broken images or too little memory."""
        numbers = torch.arange(len(self))[rows].tolist()
        images = empty_images(len(numbers), self.shape[1:])

        def work(chunk: slice) -> tuple[int, dict[str, str]]:
            return len(numbers[chunk]), self.decode(numbers[chunk], images[chunk])

        for seen, broken in in_threads(work, len(numbers)):
            self.broken.note(seen, broken)
        return torch.from_numpy(images)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all images, `size` at a time."""
        return (self[first : first + size] for first in range(0, len(self), size))

    def decode(self, rows: Sequence[int], images: np.ndarray) -> dict[str, str]:
        """Fill `images` (n, C, H, W) with these rows. Return the reason for each broken image, by name.

        Raises UserError if no image of a class can be decoded.
        """
        broken: dict[str, str] = {}
        for index, row in enumerate(rows):
            for candidate in self._candidates(row):
                name = self.names[candidate]
                try:
                    images[index] = decode_as(self.tree.read, name, self.target, self.shape[1:])
                    break
                except BROKEN as error:
                    broken[name] = one_line(error)
            else:
                name = self.names[row]
                others = "and so are the other images of its class and split"
                raise UserError(f"{self.tree.path}: {name} is broken ({broken[name]}), {others}", "mend or remove them")
        return broken

    def _candidates(self, row: int) -> Iterator[int]:
        """Yield the row, then the other rows of its class in order, from the row to the end and then from the start."""
        yield row
        members = np.flatnonzero(self._labels == self._labels[row])
        yield from np.roll(members, -np.searchsorted(members, row))[1:].tolist()


def read_both(train: Streamed, test: Streamed) -> tuple[Tensor, Tensor, list[str]]:
    """Return all images of two splits in memory, and notes about images that look wrong.

    Raises UserError if memory is too small or images are broken. The error names broken images.
    """
    survey = Survey(train.target)
    if test.tree is train.tree:  # one pass, so that the message names broken images of both splits
        images = torch.from_numpy(decode_all(train.tree, [*train.names, *test.names], train.target, survey))
        first, second = images[: len(train)], images[len(train) :]
    else:
        parts = ((part.tree, part.names, part.target, survey) for part in (train, test))
        first, second = (torch.from_numpy(decode_all(*part)) for part in parts)
    return first, second, survey.notes(str(train.tree.path))


def look_at_some(images: Streamed) -> list[str]:
    """Decode a few evenly spaced images, and return notes about those that look wrong."""
    survey, names = Survey(images.target), images.names[:: -(-len(images) // MOST_LOOKED_AT)]

    def look(rows: slice) -> None:
        for name in names[rows]:
            with suppress(*BROKEN):  # reported when the image is used
                decode_as(images.tree.read, name, images.target, images.shape[1:], survey)

    list(in_threads(look, len(names)))
    return survey.notes(str(images.tree.path))


def stream(
    name: str,
    train: Part,
    test: Part,
    target: Target,
    class_names: tuple[str, ...],
    flips: bool,
    notes: Sequence[str] = (),
) -> ImageData:
    """Return a data set whose images stay in their files. Raises UserError if the parts differ in image size."""
    if test.tree is train.tree:
        shape = test_shape = find_shape(train.tree, [*train.names, *test.names], target)
    else:
        shape, test_shape = (find_shape(part.tree, part.names, target) for part in (train, test))
    if shape != test_shape:
        size, test_size = ("×".join(map(str, sides[1:])) for sides in (shape, test_shape))
        message = f"images of {train.tree.path} are {size}, but images of {test.tree.path} are {test_size}"
        raise UserError(message, "give all images one size with `dataset.size`")
    broken = Broken(str(train.tree.path), len(train.names) + len(test.names))
    first, second = (
        Split(
            Streamed(part, target, shape, broken),
            torch.tensor(part.labels),
            identify=partial(part.sha256, target),
            listing=part.rows,
            hash_contents=partial(part.contents, target),
        )
        for part in (train, test)
    )
    passed_over = dict.fromkeys(f"{part.tree.path}: {part.tree.note}" for part in (train, test) if part.tree.note)
    dataset = ImageData(name, first, second, class_names, flips, broken)
    if untrained := [class_names[label] for label in dataset.untrained]:
        kinds = "class without" if len(untrained) == 1 else f"{len(untrained)} classes without"
        notes = [
            *notes,
            f"{train.tree.path}: {kinds} any training image: {shorten_names(untrained)} (left out of samples)",
        ]
    return replace(dataset, notes=(*passed_over, *notes))
