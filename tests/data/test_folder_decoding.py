"""Own images: files of any size, colours and format become pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.readers import pictures


def decode(image: Image.Image, **options: Any) -> np.ndarray:
    memory = io.BytesIO()
    image.save(memory, options.pop("format", "PNG"), **options.pop("save", {}))
    target = pictures.Target(options.pop("size", None), options.pop("channels", 3), options.pop("crop", True))
    return pictures.decode(memory.getvalue(), target)


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (20, 36), (36, 20)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", [True, False])
def test_any_size(size: tuple[int, int], channels: int, crop: bool) -> None:
    for source in ((50, 31), (7, 64), (20, 36)):
        image = decode(Image.new("RGB", source, (200, 200, 200)), size=size, channels=channels, crop=crop)
        assert image.shape == (channels, *size) and image.dtype == np.uint8 and (image == 200).all()


def test_crop_keeps_the_centre_and_squeezing_keeps_everything() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 255
    image = Image.fromarray(pixels)
    cut = decode(image, size=(10, 10), crop=True)  # the filter sees a little beyond the edges
    assert (cut > 230).all() and (cut[:, :, 1:-1] > 250).all()
    squeezed = decode(image, size=(10, 10), crop=False)[0].astype(int)
    assert (squeezed[:, 0] < 20).all() and (squeezed[:, 4:6] > 235).all() and (squeezed[:, -1] < 20).all()


def test_own_size_changes_no_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3)).astype(np.uint8)
    assert np.array_equal(decode(Image.fromarray(pixels)).transpose(1, 2, 0), pixels)
    assert np.array_equal(decode(Image.fromarray(pixels), size=(9, 13)).transpose(1, 2, 0), pixels)


def test_shrinking_is_antialiased() -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = decode(Image.fromarray(board), size=(8, 8), channels=1).astype(int)
    assert (abs(small - 127.5) < 4).all()


def test_a_large_jpeg_decoded_small_looks_like_one_decoded_whole() -> None:
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(0, 256, (12, 9, 3)).astype(np.uint8)).resize((900, 1200))
    quick = decode(smooth, format="JPEG", save={"quality": 95}, size=(32, 24)).astype(float)
    whole = decode(smooth, size=(32, 24)).astype(float)
    assert abs(quick - whole).mean() < 2


def test_colours() -> None:
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert decode(red)[:, 0, 0].tolist() == [255, 0, 0]
    assert decode(red, channels=1).shape == (1, 2, 2) and decode(red, channels=1)[0, 0, 0] == 76  # ITU-R 601
    assert decode(Image.new("L", (2, 2), 9))[:, 0, 0].tolist() == [9, 9, 9]
    assert decode(Image.new("1", (2, 2), 1), channels=1)[0, 0, 0] == 255
    assert decode(Image.new("RGBA", (2, 2), (0, 0, 0, 0)))[:, 0, 0].tolist() == [255, 255, 255]
    assert decode(Image.new("LA", (2, 2), (0, 0)), channels=1)[0, 0, 0] == 255
    half = decode(Image.new("RGBA", (2, 2), (255, 0, 0, 128)))[:, 0, 0].tolist()
    assert half[0] == 255 and abs(half[1] - 127) <= 1
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30])
    assert decode(palette)[:, 0, 0].tolist() == [10, 20, 30]
    cmyk = decode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), format="JPEG")
    assert abs(cmyk[:, 4, 4].astype(int) - [255, 0, 0]).max() < 10


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert decode(deep, channels=1)[0, 0].tolist() == [0, 1, 128, 255]


def test_exif_orientation_is_applied() -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 255  # top left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees
    turned = decode(Image.fromarray(pixels), format="JPEG", save={"exif": exif, "quality": 95})
    assert turned.shape == (3, 32, 16)
    assert turned[0, 4, 12] > 200 and turned[0, 4, 4] < 50 and turned[0, 28, 12] < 50


def test_of_a_film_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (50, 200)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    stored = (tmp_path / "film.gif").read_bytes()
    assert pictures.decode(stored, pictures.Target(None, 1, True))[0, 0, 0] == 50
