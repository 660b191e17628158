"""Image files to one uint8 array: decoding, orientation, colour, cropping, scaling; bad files are named.

Threads decode straight into one array, as Pillow lets go of the interpreter while it decodes. Images that stay in
their files are the business of `streamed.py`.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from data.readers.memory import free_memory
from data.readers.trees import Tree
from models.errors import UserError
from models.progress import progress

# About 8000×8000: below the size at which Pillow itself begins to warn of decompression bombs.
MAX_PIXELS = 64 << 20
# Named, because Pillow would hand other formats to programs of the system (EPS to Ghostscript).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
CHUNK = 64
_NAMED = 5


@dataclass(frozen=True)
class Target:
    """What images become: `size` (H, W) or None for their own, `channels` 1 or 3, `crop` or squeeze."""

    size: tuple[int, int] | None
    channels: int
    crop: bool

    @classmethod
    def of_flags(cls, size: tuple[int, ...], channels: int, crop: bool) -> Target:
        """From the options of a data set. Raises UserError for what no image can be."""
        if len(size) > 2 or not all(1 <= side <= 4096 for side in size):
            raise UserError(f"--dataset.size {' '.join(map(str, size))}: give one or two numbers from 1 to 4096")
        if channels not in (1, 3):
            raise UserError(f"--dataset.channels {channels}: 1 (grayscale) or 3 (colour)")
        return cls((size[0], size[-1]) if size else None, channels, crop)


def decode(stored: bytes, target: Target) -> np.ndarray:
    """One image file as uint8 (C, H, W).

    Turned upright by its EXIF tag; transparent parts become white; of a film, the first frame. To
    `target.size` by a Lanczos filter with antialiasing, after cutting the centre of that shape (crop) or
    squeezing. Raises ValueError, OSError or one of `BROKEN` if that cannot be done.
    """
    try:
        opened = Image.open(io.BytesIO(stored), formats=_FORMATS)
    except Image.UnidentifiedImageError:
        raise ValueError("no image, or of no known format") from None
    with opened as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}×{image.height} is more than {MAX_PIXELS >> 20} million pixels")
        if target.size is not None and image.format == "JPEG":
            # The decoder may halve for free; twice the size is left for the filter. Square: EXIF may turn it.
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


# What Pillow is known to raise for damaged files.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError, AttributeError)
BROKEN += (OverflowError, MemoryError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Shape:
    """The shape (C, H, W) that all images of a data set have, and the name of the image it is taken from."""

    sides: tuple[int, ...]
    model: str

    @classmethod
    def of(cls, tree: Tree, names: Sequence[str], target: Target) -> Shape:
        """That of the target, else of the first image that can be decoded."""
        if target.size is not None:
            return cls((target.channels, *target.size), names[0])
        for name in names:
            try:
                with quiet():
                    return cls(decode(tree.read(name), target).shape, name)
            except BROKEN:
                continue  # named with the other broken ones when they are decoded
        return cls((target.channels, 1, 1), names[0])


def decode_as(tree: Tree, name: str, target: Target, shape: Shape) -> np.ndarray:
    """One image of the tree as uint8 (C, H, W). Raises one of `BROKEN`, also where its shape is another."""
    image = decode(tree.read(name), target)
    if image.shape != shape.sides:
        raise ValueError(f"{_size(image.shape)}, but {shape.model} is {_size(shape.sides)}: choose a --dataset.size")
    return image


def decode_all(tree: Tree, names: Sequence[str], target: Target) -> np.ndarray:
    """The images `names` of the tree as one uint8 array (N, C, H, W).

    Raises UserError naming the files that cannot be decoded, or two of different size when `target.size` is
    None, or when the array would not fit in the free memory.
    """
    shape = Shape.of(tree, names, target)
    check_memory(len(names), shape.sides)
    images = np.empty((len(names), *shape.sides), np.uint8)
    bad: dict[str, str] = {}

    def work(first: int) -> int:
        chunk = names[first : first + CHUNK]
        for row, name in enumerate(chunk, start=first):
            try:
                images[row] = decode_as(tree, name, target, shape)
            except BROKEN as error:
                bad[name] = one_line(error)
        return len(chunk)

    with quiet(), decoding_threads() as workers, progress(f"reading {tree.path.name}", len(names)) as advance:
        for done in workers.map(work, range(0, len(names), CHUNK)):
            advance(done)
    if bad:
        raise _bad_images(tree, bad)
    return images


def decoding_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(os.cpu_count() or 1, 16))


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
    """The largest centred box (left, top, right, bottom) with width/height = aspect."""
    width, height = min(size[0], size[1] * aspect), min(size[1], size[0] / aspect)
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height


def _bad_images(tree: Tree, bad: dict[str, str]) -> UserError:
    named = [f"{name} ({bad[name]})" for name in sorted(bad)[:_NAMED]]
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    count = "1 image" if len(bad) == 1 else f"{len(bad)} images"
    return UserError(f"{tree.path}: {count} cannot be used: {', '.join(named)}{more}: repair or remove them")


def check_memory(count: int, shape: Sequence[int]) -> None:
    """Raises UserError for more images than there is free memory for."""
    needed, free = count * int(np.prod(shape)), free_memory()
    if needed > free:
        raise UserError(
            f"{count} images of {_size(shape)} need {needed / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} GiB are free: choose a smaller --dataset.size or --memory_limit"
        )


def _size(shape: Sequence[int]) -> str:
    return f"{shape[-2]}×{shape[-1]} (height×width)"


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def quiet() -> warnings.catch_warnings:
    # Pillow warns of odd metadata that does not concern the pixels.
    return warnings.catch_warnings(action="ignore")
