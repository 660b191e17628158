"""Decoding of image files into uint8 arrays: orientation, colour, cropping, scaling.

Threads decode into one array, because Pillow releases the GIL. `streamed.py` leaves images in their files.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Self, TypeVar

import numpy as np
from PIL import Image

from data.images import sides_of
from data.readers.decoding import BROKEN, eight_bits, open_upright
from data.readers.memory import free_memory
from data.readers.survey import Survey
from data.readers.trees import Tree
from models.errors import UserError
from models.progress import progress

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_CHUNK = 64
_MOST_NAMED = 5
_OTHER_SIZE = ", but the first image is "  # Part of the reason for an image of another size.

Result = TypeVar("Result")


@dataclass(frozen=True, repr=False)
class Target:
    """Form of decoded images. size: (H, W), None to keep sizes. channels: 1, 3 or 4. crop: crop instead of stretching.

    background: colour under transparent parts, unless there are four channels. white_level: as for `eight_bits`.
    """

    size: tuple[int, int] | None
    channels: int
    crop: bool
    background: str = "white"
    white_level: int = 0

    @classmethod
    def from_options(
        cls, size: tuple[int, ...], channels: int, crop: bool, background: str = "white", white_level: int = 0
    ) -> Self:
        """Return the target that a data set's options describe. Raises UserError if the size has over two numbers."""
        return cls(sides_of(size), channels, crop, background, white_level)

    def __repr__(self) -> str:
        """Return size, channels and crop, and other options if set. Hashes of data sets depend on this text."""
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        earlier = ("size", "channels", "crop")
        shown = {key: value for key, value in options.items() if key in earlier or value != getattr(Target, key)}
        return f"Target({', '.join(f'{key}={value!r}' for key, value in shown.items())})"


def decode(stored: bytes, target: Target, name: str = "", survey: Survey | None = None) -> np.ndarray:
    """Return an image file as uint8 (C, H, W), cropped and scaled by a Lanczos filter. Raises one of `BROKEN`.

    The image is rotated by its EXIF tag. Only the first frame of an animation is used. name: name of the file.
    """
    # A JPEG may be decoded smaller, but not below twice the target's longer side. The Lanczos filter needs twice the
    # size, and the longer side is used because EXIF may swap the sides.
    decoded = open_upright(stored, name, None if target.size is None else 2 * max(target.size))
    image = eight_bits(decoded, target.white_level)
    flat = _flatten(image, target)
    if target.size is not None and flat.size != target.size[::-1]:
        height, width = target.size
        box = _centre(flat.size, width / height) if target.crop else None
        scaled = flat.resize((width, height), Image.Resampling.LANCZOS, box=box)
    else:
        scaled = flat
    pixels = np.asarray(scaled)
    if survey is not None:
        survey.look(pixels, flat, decoded)
    return pixels[None] if target.channels == 1 else pixels.transpose(2, 0, 1)


def find_shape(tree: Tree, names: Sequence[str], target: Target) -> tuple[int, ...]:
    """Return the target's shape (C, H, W), or that of the first image that can be decoded if the target has no size."""
    if target.size is not None:
        return (target.channels, *target.size)
    for name in names:
        try:
            with _no_warnings():
                return decode(tree.read(name), target, name).shape
        except BROKEN:
            continue  # It is reported with the other broken images when all are decoded.
    return (target.channels, 1, 1)


def decode_as(
    read: Callable[[str], bytes], name: str, target: Target, shape: Sequence[int], survey: Survey | None = None
) -> np.ndarray:
    """Return one image as uint8 (C, H, W). Raises one of `BROKEN`, also for an image of another shape.

    read: returns the bytes of a file: `tree.read`, or `tree.digests.read`, which also records the file's hash.
    """
    image = decode(read(name), target, name, survey)
    if image.shape != tuple(shape):
        raise ValueError(f"{_size(image.shape)}{_OTHER_SIZE}{_size(shape)}")
    return image


def decode_all(tree: Tree, names: Sequence[str], target: Target, survey: Survey | None = None) -> np.ndarray:
    """Return the images `names` of the tree as one uint8 array (N, C, H, W).

    Raises UserError for images that cannot be decoded or have another shape, and if memory is too small.
    """
    shape = find_shape(tree, names, target)
    images = empty_images(len(names), shape, "choose a smaller `memory_limit`")
    broken: dict[str, str] = {}

    def work(rows: slice) -> int:
        for row, name in enumerate(names[rows], start=rows.start):
            try:
                images[row] = decode_as(tree.digests.read, name, target, shape, survey)
            except BROKEN as error:
                broken[name] = one_line(error)
        return len(names[rows])

    with progress(f"reading {tree.path.name}", len(names)) as advance:
        for done in in_threads(work, len(names)):
            advance(done)
    if broken:
        reasons = ", ".join(f"{name} ({broken[name]})" for name in sorted(broken)[:_MOST_NAMED])
        more = f" and {len(broken) - _MOST_NAMED} more" if len(broken) > _MOST_NAMED else ""
        count = "1 image" if len(broken) == 1 else f"{len(broken)} images"
        raise UserError(f"{tree.path}: {count} cannot be used: {reasons}{more}", *ways_out(broken.values()))
    return images


def ways_out(reasons: Iterable[str]) -> list[str]:
    """Return advice about images that cannot be used, for a UserError. reasons: one for each image."""
    differ = any(_OTHER_SIZE in reason for reason in reasons)
    return ["repair or remove them", *(["give all images one size with `dataset.size`"] if differ else [])]


def in_threads(work: Callable[[slice], Result], count: int) -> Iterator[Result]:
    """Yield what `work` returns for slices of `count` rows, in order. Several threads do the work."""
    with _no_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as threads:
        yield from threads.map(work, (slice(first, first + _CHUNK) for first in range(0, count, _CHUNK)))


def empty_images(count: int, shape: Sequence[int], *more_ways_out: str) -> np.ndarray:
    """Return an uninitialised uint8 array (count, C, H, W). Raises UserError if it does not fit in the free memory."""
    needed, free = count * math.prod(shape), free_memory()
    if needed > free:
        sizes = f"need {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free"
        message = f"{count} images of {_size(shape)} {sizes}"
        raise UserError(message, "choose a smaller `dataset.size`", *more_ways_out)
    return np.empty((count, *shape), np.uint8)


def fit_images(images: np.ndarray, size: tuple[int, int] | None, pad: int) -> np.ndarray:
    """Return uint8 images (N, C, H, W) scaled to `size` by a Lanczos filter, then framed by `pad` black pixels.

    Pillow uses integer arithmetic, so results are the same on every machine. Raises UserError for too little memory.
    """
    height, width = size or images.shape[2:]
    fitted = empty_images(len(images), (images.shape[1], height + 2 * pad, width + 2 * pad))
    fitted[:] = 0
    inside = fitted[:, :, pad : pad + height, pad : pad + width]
    if (height, width) == images.shape[2:]:
        inside[:] = images
        return fitted
    for planes, targets in zip(images, inside, strict=True):
        for plane, target in zip(planes, targets, strict=True):
            target[:] = Image.fromarray(plane).resize((width, height), Image.Resampling.LANCZOS)
    return fitted


def _flatten(image: Image.Image, target: Target) -> Image.Image:
    """Return the image in the target's channels, composited over the background if the target has no alpha channel."""
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.has_transparency_data and target.channels != 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, target.background), image)
    return image.convert(_MODES[target.channels])


def _centre(size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    """Return the largest centred box (left, top, right, bottom) with width/height = aspect."""
    width, height = min(size[0], size[1] * aspect), min(size[1], size[0] / aspect)
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height


def _size(shape: Sequence[int]) -> str:
    return f"{shape[-2]}×{shape[-1]} (height×width)"


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _no_warnings() -> warnings.catch_warnings:
    # Pillow warns of odd metadata that do not concern the pixels.
    return warnings.catch_warnings(action="ignore")
