"""Pixels of awkward files: deep, inverted, transparent, with damaged metadata. Lost contents are told of."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.readers import decoding, pictures
from tests.data.own_images import load, png

# Pillow warns of odd metadata.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 120)]
GREYS = [40, 90, 160, 220]
EXIF = b"Exif\0\0II*\0\x08\0\0\0"
GARBAGE = b"\x00\x08\x00\x02\x01\x12\x00\x03" * 3
# Orientation 6, and a resolution of -1/0, which Pillow cannot write back.
ODD_RESOLUTION = (
    EXIF + struct.pack("<HHHIHHHHII", 2, 0x112, 3, 1, 6, 0, 0x11A, 10, 1, 38) + bytes(4) + struct.pack("<ii", -1, 0)
)
BACKGROUND = {"white": 255, "black": 0}


def quarters(values: Any, dtype: Any = np.uint8) -> np.ndarray:
    """Return 16×16 pixels: four squares of one value each, in reading order."""
    return np.array(values, dtype)[[[0, 1], [2, 3]]].repeat(8, axis=0).repeat(8, axis=1)


def encoded(pixels: np.ndarray | Image.Image, format: str = "PNG", **options: Any) -> bytes:
    memory = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(memory, format, **options)
    return memory.getvalue()


def seen(stored: bytes, channels: int = 3, name: str = "", **options: Any) -> list[Any]:
    """Return the decoded values in the middle of each quarter."""
    image = pictures.decode(stored, pictures.Target(None, channels, True, **options), name)
    values = [image[:, y, x].tolist() for y, x in ((4, 4), (4, 12), (12, 4), (12, 12))]
    return [value[0] if channels == 1 else tuple(value) for value in values]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_png(pixels: np.ndarray, kind: int, *more: bytes) -> bytes:
    """Return a PNG of 16-bit values. kind: colour type of PNG."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", pixels.shape[1], len(pixels), 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(blob: bytes, bits: int, photometric: int, kind: int = 1, *more: tuple[int, int]) -> bytes:
    """Return an uncompressed little-endian TIFF of 16×16 grey values."""
    entries = [(256, 16), (257, 16), (258, bits), (259, 1), (262, photometric), (273, 0), (277, 1), (278, 16)]
    entries = sorted([*entries, (279, len(blob)), (339, kind), *more])
    start = 8 + 2 + 12 * len(entries) + 4
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + bytes(4) + blob


def packed(values: np.ndarray) -> bytes:
    """Return 12-bit values in three bytes a pair."""
    first, second = values.reshape(-1, 2).astype(int).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()


def bitmap(alpha: int, header: int = 108) -> bytes:
    """Return a 32-bit BMP with an alpha channel of one value."""
    blob = quarters([(*colour[::-1], alpha) for colour in COLOURS])[::-1].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", header, 16, 16, 1, 32, 3, len(blob), 0, 0, 0, 0) + masks + bytes(header - 56)
    return b"BM" + struct.pack("<IHHI", 14 + header + len(blob), 0, 0, 14 + header) + info + blob


# -- depth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stored",
    [
        encoded(quarters([value * 257 for value in GREYS], np.uint16)),
        encoded(quarters([value * 257 for value in GREYS], np.uint16), "TIFF"),
        encoded(quarters([value * 257 for value in GREYS], np.uint16), "TIFF", compression="tiff_lzw"),
        encoded(quarters([value * 257 for value in GREYS], np.uint16), "JPEG2000"),
        b"P5 16 16 65535\n" + quarters([value * 257 for value in GREYS], ">u2").tobytes(),
        b"P5 16 16 4095\n" + quarters([value * 4095 / 255 for value in GREYS], ">u2").tobytes(),
        b"P2 16 16 1023\n" + " ".join(str(value * 1023 // 255) for value in quarters(GREYS, int).ravel()).encode(),
        b"P6 16 16 65535\n" + quarters([(value * 257,) * 3 for value in GREYS], ">u2").tobytes(),
        deep_png(quarters([(value * 257,) * 3 for value in GREYS], np.uint16), 2),
        deep_png(quarters([(value * 257, 65535) for value in GREYS], np.uint16), 4),
        tiff(quarters([value * 257 for value in GREYS], "<u2").tobytes(), 16, 1),
        tiff(quarters([65535 - value * 257 for value in GREYS], "<u2").tobytes(), 16, 0),
        tiff(quarters([255 - value for value in GREYS]).tobytes(), 8, 0),
        tiff(packed(quarters([value * 4095 / 255 for value in GREYS], np.uint16)), 12, 1),
    ],
    ids="png tiff lzw jp2 pgm pgm12 pgm10 ppm rgb la tiff1 tiff0 inverted8 tiff12".split(),
)
def test_deep_files_are_scaled_like_shallow_ones(stored: bytes) -> None:
    assert np.abs(np.subtract(seen(stored, 1), GREYS)).max() <= 1
    assert np.abs(np.subtract(seen(stored), [[value] * 3 for value in GREYS])).max() <= 1


@pytest.mark.parametrize(
    "stored",
    [
        encoded(quarters([value * 16 for value in GREYS], np.uint16)),
        encoded(quarters([value * 16 for value in GREYS], np.uint16), "TIFF"),
        b"P5 16 16 65535\n" + quarters([value * 16 for value in GREYS], ">u2").tobytes(),
    ],
    ids=["png", "tiff", "pgm"],
)
def test_twelve_bits_in_sixteen_are_told_of_and_can_be_mended(
    stored: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert max(seen(stored, 1)) < 16
    assert np.abs(np.subtract(seen(stored, 1, white_level=4095), GREYS)).max() <= 1
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(stored)
    png(tmp_path / "good.png", quarters(COLOURS))
    load(tmp_path)
    said = capsys.readouterr().err
    assert "3 of 4 images are nearly black: their maximum is 3520 of 65535; use dataset.white_level 4095\n" in said
    load(tmp_path, white_level=4095)
    assert capsys.readouterr().err == ""


def test_the_white_level_of_colours_and_of_shallow_files() -> None:
    colours = quarters([[value * 16 for value in colour] for colour in COLOURS], np.uint16)
    assert np.abs(np.subtract(seen(deep_png(colours, 2), white_level=4095), COLOURS)).max() <= 16  # high bytes alone
    assert seen(encoded(quarters([0, 1, 2, 3])), 1, white_level=3) == [0, 85, 170, 255]
    assert seen(encoded(quarters(GREYS)), 1, white_level=4095) == GREYS  # it cannot hold such values
    clear = encoded(quarters([(1, 1, 1, 255), (1, 1, 1, 0), (0, 0, 0, 255), (1, 1, 1, 255)]))
    assert seen(clear, 4, white_level=1)[1] == (255, 255, 255, 0)


def test_a_mask_of_small_numbers_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        png(tmp_path / f"{number}.png", quarters([0, 1, 2, 3]))
    load(tmp_path, 0)
    said = capsys.readouterr().err
    assert "1 of 1 images is nearly black: their maximum is 3 of 255; use dataset.white_level 3\n" in said


def test_numbers_without_a_range_are_refused_without_a_white_level() -> None:
    signed = tiff(quarters([value * 4 for value in GREYS], "<i2").tobytes(), 16, 1, kind=2)
    floats = encoded(quarters([value / 255 for value in GREYS], np.float32), "TIFF")
    for stored in (signed, floats):
        with pytest.raises(ValueError, match="without a known range"):
            seen(stored, 1)
    assert np.abs(np.subtract(seen(signed, 1, white_level=1020), GREYS)).max() <= 1
    assert np.abs(np.subtract(seen(floats, 1, white_level=1), GREYS)).max() <= 1


# -- transparency -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [108, 124, 56])
def test_an_unused_alpha_channel_is_opaque(header: int) -> None:
    assert seen(bitmap(0, header)) == COLOURS and seen(bitmap(255, header)) == COLOURS
    assert seen(bitmap(0, header), 4) == [(*colour, 255) for colour in COLOURS]
    half = seen(bitmap(128, header))
    assert half != COLOURS and abs(half[0][0] - 227) <= 1


def test_an_unused_alpha_channel_of_a_targa_is_opaque() -> None:
    clear = Image.fromarray(quarters([(*colour, 0) for colour in COLOURS]))
    assert seen(encoded(clear, "TGA"), name="a.tga") == COLOURS
    assert seen(encoded(clear)) == [(255, 255, 255)] * 4  # a PNG means it


@pytest.mark.parametrize("colour", ["white", "black"])
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "GIF", "LA"])
def test_a_glyph_of_the_background_colour_is_told_of(
    colour: str, format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value, other = BACKGROUND[colour], "black" if colour == "white" else "white"
    glyph = Image.fromarray(quarters([(value, value, value, alpha) for alpha in (255, 0, 0, 255)]))
    if format == "LA":
        stored = encoded(glyph.convert("LA"))
    else:
        stored = encoded(glyph, format, **({"lossless": True, "exact": True} if format == "WEBP" else {}))
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(stored)
    png(tmp_path / "good.png", quarters(COLOURS))
    load(tmp_path, background=colour)
    said = capsys.readouterr().err
    assert said == (
        f"{tmp_path}: 3 of 4 images are of one colour: transparency is laid over {colour}; "
        f"use dataset.background {other} or dataset.channels 4\n"
    )
    mended = load(tmp_path, background=other, channels=1).train.images
    assert capsys.readouterr().err == "" and mended[0].max() - mended[0].min() > 100
    load(tmp_path, 0, background=colour)
    assert "of one colour" in capsys.readouterr().err


def test_images_that_are_of_one_colour_in_their_files_are_not_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    png(tmp_path / "black.png", 0)
    png(tmp_path / "white.png", 255)
    (tmp_path / "clear.png").write_bytes(encoded(Image.new("RGBA", (5, 6), (9, 9, 9, 0))))
    load(tmp_path)
    assert capsys.readouterr().err == ""


def test_four_channels_keep_colours_and_transparency(tmp_path: Path) -> None:
    values = [(*colour, alpha) for colour, alpha in zip(COLOURS, (255, 0, 128, 255), strict=True)]
    assert seen(encoded(quarters(values)), 4) == values
    assert seen(encoded(quarters(COLOURS)), 4) == [(*colour, 255) for colour in COLOURS]
    assert seen(encoded(quarters(GREYS)), 4) == [(grey, grey, grey, 255) for grey in GREYS]
    # The colours of transparent pixels do not bleed into others when an image is scaled.
    bleeding = encoded(quarters([(0, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 255), (255, 0, 0, 0)]))
    small = pictures.decode(bleeding, pictures.Target((3, 3), 4, True))
    assert small[3, 0].tolist()[0] == 255 and small[0][small[3] > 0].max() == 0


def test_a_transparent_value_of_deep_files_is_transparent() -> None:
    greys = [value * 257 for value in GREYS]
    stored = deep_png(quarters(greys, np.uint16), 0, chunk(b"tRNS", struct.pack(">H", greys[1])))
    assert seen(stored, 4)[1] == (90, 90, 90, 0) and seen(stored, 1) == [40, 255, 160, 220]
    colours = quarters(np.array(COLOURS) * 257, np.uint16)
    stored = deep_png(colours, 2, chunk(b"tRNS", struct.pack(">HHH", *(value * 257 for value in COLOURS[1]))))
    assert [alpha for *_, alpha in seen(stored, 4)] == [255, 0, 255, 255]
    assert seen(stored)[1] == (255, 255, 255)


# -- metadata ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exif", [GARBAGE, EXIF + b"\xff\xff" * 20, EXIF[:12], b"Exif\0\0", EXIF + b"\x30\0\x12"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_leaves_the_image_as_stored(format: str, exif: bytes) -> None:
    options = {"lossless": True} if format == "WEBP" else {"quality": 98, "subsampling": 0} if format == "JPEG" else {}
    big = Image.fromarray(quarters(COLOURS))
    assert np.abs(np.subtract(seen(encoded(big, format, exif=exif, **options)), COLOURS)).max() <= 12


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_orientation_is_read_beside_damaged_metadata(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {"quality": 98, "subsampling": 0} if format == "JPEG" else {}
    turned = [COLOURS[2], COLOURS[0], COLOURS[3], COLOURS[1]]
    stored = encoded(Image.fromarray(quarters(COLOURS)), format, exif=ODD_RESOLUTION, **options)
    assert np.abs(np.subtract(seen(stored), turned)).max() <= 12


@pytest.mark.parametrize("pointer", [0x8769, 0x8825], ids=["exif", "gps"])
@pytest.mark.parametrize("target", [8, 9, 1 << 30])
def test_damaged_tags_of_a_tiff_do_not_concern_its_pixels(pointer: int, target: int) -> None:
    stored = tiff(quarters(GREYS).tobytes(), 8, 1, 1, (274, 6), (pointer, target))
    assert seen(stored, 1) == [GREYS[2], GREYS[0], GREYS[3], GREYS[1]]


def test_damaged_exif_of_an_avif_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description of some length"
    stored = encoded(Image.fromarray(quarters(COLOURS)), "AVIF", exif=exif, quality=100, subsampling="4:4:4")
    tags = stored.rindex(exif.tobytes()[6:14])
    assert np.abs(np.subtract(seen(stored), COLOURS)).max() <= 12
    spoilt = stored[:tags] + b"\0\x08\0\x02\x01\x12\0\x03" + stored[tags + 8 :]
    assert np.abs(np.subtract(seen(spoilt), COLOURS)).max() <= 12


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(3 << 20))),  # more than Pillow reads
        chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"tEXt", b"note\0text")[:-4] + b"oops",  # a wrong checksum
        chunk(b"eXIf", GARBAGE)[:-4] + b"oops",
        chunk(b"pHYs", b"\1"),  # cut short
    ],
    ids=["xmp", "ztxt", "checksum", "exif", "short"],
)
def test_damaged_metadata_of_a_png_are_ignored(extra: bytes) -> None:
    whole = encoded(quarters(COLOURS))
    assert seen(whole[:33] + extra + whole[33:]) == COLOURS


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_damaged_pixels_are_refused(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    whole = encoded(noise, format, **({"exif": GARBAGE} if format in ("PNG", "WEBP") else {}))
    with pytest.raises(decoding.BROKEN):
        seen(whole[: len(whole) * 2 // 3])
    if format == "PNG":
        middle = len(whole) // 2
        with pytest.raises(decoding.BROKEN):
            seen(whole[:middle] + bytes(64) + whole[middle + 64 :])


def test_options_that_earlier_versions_did_not_have_leave_the_hashes_as_they_were() -> None:
    target = pictures.Target((8, 9), 3, True)
    assert repr(target) == "Target(size=(8, 9), channels=3, crop=True)"
    assert repr(pictures.Target(None, 1, False, white_level=9)).endswith("crop=False, white_level=9)")
    assert "background='black'" in repr(pictures.Target(None, 1, False, "black"))
