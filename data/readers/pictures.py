"""Decoding of image files into uint8 arrays: orientation, colour, cropping, scaling.

Threads decode into one array, because Pillow releases the GIL. `streamed.py` leaves images in their files.
"""

import io
import math
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from PIL import Image, ImageOps

from data.readers.memory import free_memory
from data.readers.trees import Tree
from models.errors import UserError
from models.progress import progress

# About 8000×8000, below the size at which Pillow itself begins to warn of decompression bombs.
MAX_PIXELS = 64 << 20
# Only these formats, because Pillow runs system programs for some other formats (Ghostscript for EPS).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Pillow is known to raise these for damaged files.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError, AttributeError)
BROKEN += (OverflowError, MemoryError, struct.error, Image.DecompressionBombError)
_CHUNK = 64
_MOST_NAMED = 5

Result = TypeVar("Result")


@dataclass(frozen=True)
class Target:
    """Form of decoded images. size: (H, W), None to keep theirs. channels: 1 or 3. crop: crop instead of stretching."""

    size: tuple[int, int] | None
    channels: int
    crop: bool

    @classmethod
    def from_options(cls, size: tuple[int, ...], channels: int, crop: bool) -> Self:
        """Return the target that the options of a data set describe. Raises UserError for more than two sizes."""
        if len(size) > 2:
            raise UserError(f"`dataset.size` {' '.join(map(str, size))}: takes one or two numbers")
        return cls((size[0], size[-1]) if size else None, channels, crop)

    @property
    def ways_out(self) -> list[str]:
        """Advice about images that cannot be used, for a UserError."""
        return ["repair or remove them", *([] if self.size else ["give all images one size with `dataset.size`"])]


def decode(stored: bytes, target: Target) -> np.ndarray:
    """Return an image file as uint8 (C, H, W), cropped and scaled by a Lanczos filter. Raises one of `BROKEN`.

    The image is rotated by its EXIF tag. Transparent parts become white. Only the first frame of an animation is used.
    """
    try:
        opened = Image.open(io.BytesIO(stored), formats=_FORMATS)
    except Image.UnidentifiedImageError:
        raise ValueError("no image, or of no known format") from None
    with opened as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}×{image.height} is more than {MAX_PIXELS >> 20} million pixels")
        if target.size is not None and image.format == "JPEG":
            # The JPEG decoder can halve the size at no cost. At least twice the target size remains for the filter, in
            # a square because EXIF may rotate the image.
            side = 2 * max(target.size)
            image.draft(None, (side, side))
        upright = ImageOps.exif_transpose(image)
    flat = _flatten(upright, "L" if target.channels == 1 else "RGB")
    if target.size is not None and flat.size != target.size[::-1]:
        height, width = target.size
        box = _centre(flat.size, width / height) if target.crop else None
        flat = flat.resize((width, height), Image.Resampling.LANCZOS, box=box)
    pixels = np.asarray(flat)
    return pixels[None] if target.channels == 1 else pixels.transpose(2, 0, 1)


def find_shape(tree: Tree, names: Sequence[str], target: Target) -> tuple[int, ...]:
    """Return the shape (C, H, W) of the target, else of the first image that can be decoded."""
    if target.size is not None:
        return (target.channels, *target.size)
    for name in names:
        try:
            with _no_warnings():
                return decode(tree.read(name), target).shape
        except BROKEN:
            continue  # It is reported with the other broken images when all are decoded.
    return (target.channels, 1, 1)


def decode_as(tree: Tree, name: str, target: Target, shape: Sequence[int]) -> np.ndarray:
    """Return one image of the tree as uint8 (C, H, W). Raises one of `BROKEN`, also for an image of another shape."""
    image = decode(tree.digests.read(name), target)
    if image.shape != tuple(shape):
        raise ValueError(f"{_size(image.shape)}, but the first image is {_size(shape)}")
    return image


def decode_all(tree: Tree, names: Sequence[str], target: Target) -> np.ndarray:
    """Return the images `names` of the tree as one uint8 array (N, C, H, W).

    Raises UserError for images that cannot be decoded or have another shape, and if memory is too small.
    """
    shape = find_shape(tree, names, target)
    images = empty_images(len(names), shape)
    broken: dict[str, str] = {}

    def work(rows: slice) -> int:
        for row, name in enumerate(names[rows], start=rows.start):
            try:
                images[row] = decode_as(tree, name, target, shape)
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
        raise UserError(f"{tree.path}: {count} cannot be used: {reasons}{more}", *target.ways_out)
    return images


def in_threads(work: Callable[[slice], Result], count: int) -> Iterator[Result]:
    """Yield what `work` returns for slices of `count` rows, in order. Several threads do the work."""
    with _no_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as threads:
        yield from threads.map(work, (slice(first, first + _CHUNK) for first in range(0, count, _CHUNK)))


def empty_images(count: int, shape: Sequence[int]) -> np.ndarray:
    """Return an uninitialised uint8 array (count, C, H, W). Raises UserError if it does not fit in the free memory."""
    needed, free = count * math.prod(shape), free_memory()
    if needed > free:
        sizes = f"need {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free"
        ways_out = "choose a smaller `dataset.size`", "choose a smaller `memory_limit`"
        raise UserError(f"{count} images of {_size(shape)} {sizes}", *ways_out)
    return np.empty((count, *shape), np.uint8)


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)).convert(mode)
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit numbers without a known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


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
