"""Sheets show every pixel in its place, grey images as grey, and every word of their titles."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from models.drawing import sheets
from models.drawing.image_files import PAGE
from tests.models.drawing.random_images import LONG_TITLE, enlarged, pixels, random_images


@pytest.mark.parametrize("shape", [(7, 1, 8, 8), (7, 3, 28, 28), (1, 1, 20, 36), (6, 3, 36, 20), (5, 1, 1, 1)])
@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("padding", [0, 2])
def test_every_pixel_of_a_sheet(shape: tuple[int, int, int, int], scale: int, padding: int) -> None:
    images = random_images(*shape)
    height, width = shape[2] * scale, shape[3] * scale
    sheet = sheets.grid(images, columns=3, padding=padding, scale=scale)
    rows = -(-shape[0] // 3)
    assert sheet.mode == ("L" if shape[1] == 1 else "RGB")
    assert sheet.size == (padding + 3 * (width + padding), padding + rows * (height + padding))
    expected = np.full((sheet.height, sheet.width, 3), PAGE)
    for k, image in enumerate(images):
        x, y = padding + k % 3 * (width + padding), padding + k // 3 * (height + padding)
        expected[y : y + height, x : x + width] = enlarged(image, scale)
    assert np.array_equal(pixels(sheet), expected)


@pytest.mark.parametrize(("side", "shown"), [(8, 64), (28, 56), (32, 64), (64, 64), (256, 256)])
def test_small_images_are_enlarged(side: int, shown: int) -> None:
    assert sheets.grid(random_images(1, 1, side, side), padding=0).size == (shown, shown)


def test_a_sheet_of_very_many_images_is_enlarged_less() -> None:
    assert max(sheets.grid(random_images(10_000, 1, 28, 28), padding=0).size) <= sheets.LONGEST_SHEET


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 3), (7, 3), (10, 5), (20, 5), (64, 8), (200, 20)])
def test_columns_by_default(count: int, columns: int) -> None:
    assert sheets.grid(random_images(count, 1, 4, 4), padding=0, scale=1).width == 4 * columns


def test_titles_do_not_change_the_images() -> None:
    images = random_images(6, 3, 28, 28)
    plain = sheets.grid(images, columns=3)
    titled = sheets.grid(
        images, title="EMA weights", column_titles=["a", "1 2", "größe"], row_titles=["T-shirt", "σ = 0.5"]
    )
    left = titled.width - plain.width
    assert np.array_equal(pixels(titled)[-plain.height :, left:], pixels(plain))


@pytest.mark.parametrize("side", [1, 28, 300])
def test_long_titles_wrap_inside_the_page(side: int) -> None:
    title = f"{LONG_TITLE} · {'x' * 200}\nsecond line"
    sheet = sheets.grid(random_images(1, 1, side, side), title=title)
    shown = pixels(sheet)[: -side * max(1, round(60 / side)) - 4]
    assert (shown[:, -3:] == PAGE).all() and (shown[-3:] == PAGE).all()
    lines = sheets._heading(title, side).lines
    assert "".join("".join(lines).split()) == "".join(title.split())
    assert lines[-1] == "second line"


def test_wrapped_titles_are_balanced() -> None:
    lines = sheets._heading(LONG_TITLE, 400).lines
    assert len(lines) == 2 and len(lines[1]) > 30
    assert not lines[1].startswith("·")


def test_long_column_and_row_titles_are_whole() -> None:
    images = random_images(2, 1, 28, 8)
    sheet = sheets.grid(images, scale=1, column_titles=["automobile", "b"], row_titles=["many words " * 20])
    plain = sheets.grid(images, scale=1, column_titles=["b", "b"], row_titles=["c"])
    assert sheet.width > plain.width and sheet.height > 28 * 3
    shown = pixels(sheet)
    assert (shown[0] == PAGE).all() and (shown[-1] == PAGE).all()


def test_titles_show_letters_beyond_ascii() -> None:
    missing = pixels(sheets.grid(random_images(1, 1, 8, 8), title="\U0010ffff"))
    drawn = [pixels(sheets.grid(random_images(1, 1, 8, 8), title=letter)) for letter in "ßéłσЖ→×"]
    for shown in drawn:
        assert shown.shape != missing.shape or (shown != missing).any()
    assert len({shown.tobytes() for shown in drawn}) == len(drawn)


def test_grey_titles_are_grey() -> None:
    shown = pixels(sheets.grid(random_images(2, 1, 8, 8).expand(-1, 3, -1, -1), title=LONG_TITLE))
    assert (shown == shown[:, :, :1]).all() and shown.min() < 64


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 1, 8, 8), random_images(2, 4, 8, 8), random_images(1, 8, 8), random_images(0, 1, 8, 8)],
)
def test_tensors_that_are_no_images_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        sheets.grid(images)


def test_every_column_and_row_needs_a_title() -> None:
    with pytest.raises(ValueError, match="titles"):
        sheets.grid(random_images(4, 1, 8, 8), columns=2, column_titles=["a", "b", "c"])
    with pytest.raises(ValueError, match="titles"):
        sheets.grid(random_images(4, 1, 8, 8), columns=2, row_titles=["a"])
    with pytest.raises(ValueError, match="captions"):
        sheets.strip([random_images(4, 1, 8, 8)], ["a", "b"])


def test_a_sample_sheet_has_a_column_for_each_of_few_classes() -> None:
    images = random_images(12, 1, 8, 8)
    by_class = sheets.grid(images, columns=3, title="t", column_titles="abc")
    assert np.array_equal(pixels(sheets.sample_sheet(images, "abc", "t")), pixels(by_class))
    for class_names in ((), tuple(map(str, range(20)))):
        sheet = sheets.sample_sheet(images, class_names, "t")
        assert np.array_equal(pixels(sheet), pixels(sheets.grid(images, title="t")))


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (5, 3), (2, 5)])
def test_tiled_images_keep_their_pixels(count: int, columns: int) -> None:
    images = random_images(count, 1, 9, 7)
    cell, sheet = sheets.tiled(images, columns, 1), pixels(sheets.grid(images, columns, 1, 1))
    assert np.array_equal(cell[0].numpy(), sheet[1:-1, 1:-1, 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strip_has_images_in_rows_and_times_in_columns(channels: int) -> None:
    frames = [random_images(12, channels, 20, 36)[4 * k : 4 * k + 4] for k in range(3)]
    shown = pixels(sheets.strip(frames, ["t = 1", "t = 0.5", "t = 0"], title="denoising"))
    for time, frame in enumerate(frames):
        for row, image in enumerate(frame):
            y, x = shown.shape[0] - (4 - row) * 42, 2 + time * 74
            assert np.array_equal(shown[y : y + 40, x : x + 72], enlarged(image, 2))
    assert shown.shape[1] == 2 + 3 * 74


def test_importing_is_cheap() -> None:
    code = "import sys, models.drawing.sheets, models.drawing.maps; print({'torch', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
