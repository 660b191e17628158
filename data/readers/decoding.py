"""Decoding of image files into upright Pillow images of eight bits.

Pillow opens 16-bit files in one of several modes, or keeps only their high bytes. In each case, this module scales the
range of the file's values to 0..255.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from data.readers.formats import FORMATS, UNMARKED

# About 8000×8000, below the size at which Pillow itself begins to warn of decompression bombs.
MAX_PIXELS = 64 << 20
# Pillow is known to raise these for damaged files.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError, AttributeError)
BROKEN += (RuntimeError, AssertionError, OverflowError, MemoryError, struct.error, zlib.error)
BROKEN += (Image.DecompressionBombError,)

_ORIENTATION = 0x0112  # Tags of EXIF and TIFF
_BITS, _PHOTOMETRIC = 258, 262
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Formats in which many programs leave the alpha channel at 0 without meaning that the image is transparent.
_UNUSED_ALPHA = ("BMP", "DIB", "ICO", "CUR", "TGA")
_PNG_MARK = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Decoded:
    """Upright image. top: largest value that a pixel of its file can have, such as 255 or 65535.

    inverted: whether 0 is white in the file. Pillow neither corrects nor reports this for 16-bit TIFF files.
    """

    image: Image.Image
    format: str
    top: int
    inverted: bool = False


def open_upright(stored: bytes, name: str = "", shortest: int | None = None) -> Decoded:
    """Decode an image file, and turn it as its EXIF orientation says. Raises one of `BROKEN` for damaged pixels.

    Damaged metadata are ignored. Only the first frame of an animation is decoded. name: file name. Its suffix
    identifies formats without a magic number. shortest: a JPEG may be decoded at a smaller size, but not below this
    height and width.
    """
    try:
        return _open_upright(stored, name, shortest)
    except BROKEN:
        bare = _without_metadata(stored)
        if bare == stored:
            raise
    return _open_upright(bare, name, shortest)


def _open_upright(stored: bytes, name: str, shortest: int | None) -> Decoded:
    try:
        opened = Image.open(io.BytesIO(stored), formats=_formats(PurePosixPath(name).suffix.lower()))
    except Image.UnidentifiedImageError:
        raise ValueError("not an image of a known format") from None
    with opened as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}×{image.height} is more than {MAX_PIXELS >> 20} million pixels")
        if shortest is not None and image.format == "JPEG":
            image.draft(None, (shortest, shortest))
        tags: Any = getattr(image, "tag_v2", None)  # of TIFF
        top = _top(image, tags)
        inverted = image.mode.startswith("I;16") and tags is not None and tags.get(_PHOTOMETRIC) == 0
        turn = 1
        if tags is not None:
            turn = _quietly(lambda: tags.get(_ORIENTATION, 1))
            # With empty EXIF and no XMP, Pillow does not read the other tags when it loads the pixels.
            image.info["exif"] = b""
            image.info.pop("xmp", None)
        image.load()
        if tags is None:
            turn = _quietly(lambda: image.getexif().get(_ORIENTATION, 1))
        upright = image.transpose(_TURNS[turn]) if turn in _TURNS else image
        return Decoded(upright, image.format or "", top, inverted)


def eight_bits(decoded: Decoded, white_level: int = 0) -> Image.Image:
    """Return the image in one of Pillow's modes with at most 8 bits per value.

    white_level: value of the file that becomes white, ignored if the file cannot hold it; 0 for the largest value.
    Raises ValueError for numbers without a known range.
    """
    image, top = decoded.image, decoded.top
    white = white_level if 0 < white_level < top else top
    if image.mode.startswith("I;16") or (image.mode in ("I", "F") and (decoded.format == "PPM" or white_level)):
        if image.mode == "F" and not white_level:
            raise ValueError("its pixels are numbers without a known range")
        values = np.asarray(image).astype(np.float64)
        values = top - values if decoded.inverted else values
        grey = Image.fromarray(np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey.putalpha(Image.fromarray(np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8)))
        return grey
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are numbers without a known range")
    if decoded.format in _UNUSED_ALPHA and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image = image.convert("RGB")
    transparent = image.info.get("transparency")
    if top > 255 and isinstance(transparent, tuple):  # of a 16-bit PNG, whose high bytes Pillow returns
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    return image if white == top else _brightened(image, white * 255 / top)


def _brightened(image: Image.Image, white: float) -> Image.Image:
    """Return the image with the colour value `white` scaled to 255, and alpha unchanged."""
    plain = image if image.mode in ("L", "LA") else image.convert("RGBA" if image.has_transparency_data else "RGB")
    scaled = [min(255, round(value * 255 / white)) for value in range(256)]
    colours = len(plain.getbands()) - plain.mode.endswith("A")
    return plain.point(scaled * colours + list(range(256)) * plain.mode.endswith("A"))


def _top(image: ImageFile.ImageFile, tags: Any) -> int:
    """Return the largest value that a pixel of the file can have."""
    if tags is not None:
        bits = (tags.get(_BITS) or (8,))[0]
        return 2**bits - 1 if 8 < bits <= 16 else 255
    coding = str(image.tile[:1])
    wide = image.format in ("PNG", "SGI") and ("16B" in coding or "SGI16" in coding)
    if image.format == "PPM" and image.tile[0].codec_name == "ppm":
        wide = int(str((image.tile[0].args or "0")[-1])) > 255
    return 65535 if wide or image.mode.startswith("I") else 255


def _quietly(read: Any) -> Any:
    """Return the orientation that `read` returns, 1 if it cannot be read."""
    try:
        turn = read()
    except BROKEN:
        return 1
    return turn if isinstance(turn, int) else 1


@cache
def _formats(suffix: str) -> tuple[str, ...]:
    """Return the FORMATS that this Pillow can open. A format in UNMARKED is included only if it has this suffix."""
    Image.init()
    names = (name for name in FORMATS if name not in UNMARKED or suffix in FORMATS[name])
    return tuple(name for name in names if name in Image.OPEN)


def _without_metadata(stored: bytes) -> bytes:
    """Return a PNG or AVIF file without the metadata that can make Pillow fail. Return other files unchanged."""
    if stored.startswith(_PNG_MARK):
        return _PNG_MARK + b"".join(_needed_chunks(stored))
    if stored[4:8] == b"ftyp":
        head, mark, pixels = stored.partition(b"mdat")
        return head.replace(b"Exif", b"skip") + mark + pixels
    return stored


def _needed_chunks(stored: bytes) -> Iterator[bytes]:
    """Yield the chunks of a PNG that concern its pixels, and its orientation if the checksum is right."""
    start = len(_PNG_MARK)
    while start + 8 <= len(stored):
        length, kind = struct.unpack_from(">I4s", stored, start)
        chunk = stored[start : start + 12 + length]
        sound = chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
        if kind[:1].isupper() or kind == b"tRNS" or (kind == b"eXIf" and sound):
            yield chunk
        start += len(chunk)
