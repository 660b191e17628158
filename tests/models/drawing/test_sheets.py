"""Sheets show every pixel in its place, grey images as grey, and every word of a title."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from models.drawing import sheets
from models.drawing.image_files import PAGE
from models.drawing.lettering import class_titles
from models.errors import UserError
from tests.models.drawing.pictures import LONG_TITLE, enlarged, pixels, random_images


@pytest.mark.parametrize("shape", [(7, 1, 17, 8), (7, 3, 28, 28), (1, 1, 20, 36), (6, 3, 36, 20), (5, 1, 1, 1)])
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


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 16, 5), (1, 12, 16)])
def test_small_images_are_enlarged_smoothly(channels: int, height: int, width: int) -> None:
    (image,) = images = random_images(1, channels, height, width) // 2 + 64  # Nothing overshoots 0 or 255.
    shown = np.asarray(sheets.grid(images, padding=0, scale=6).convert("RGB")).astype(int)
    smooth = interpolate(images.float(), scale_factor=6, mode="bicubic", antialias=True)[0]
    expected = smooth.round().clamp(0, 255).expand(3, -1, -1).permute(1, 2, 0).numpy()
    assert np.abs(shown - expected).max() <= 2
    assert np.array_equal(pixels(sheets.grid(images, padding=0, scale=1)), enlarged(image, 1))


@pytest.mark.parametrize(("side", "shown"), [(8, 64), (28, 56), (32, 64), (64, 64), (256, 256)])
def test_small_images_are_enlarged(side: int, shown: int) -> None:
    assert sheets.grid(random_images(1, 1, side, side), padding=0).size == (shown, shown)


def test_a_sheet_of_very_many_images_is_enlarged_less() -> None:
    assert max(sheets.grid(random_images(10_000, 1, 28, 28), padding=0).size) <= sheets.LONGEST_SHEET


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (2, 2), (3, 3), (7, 4), (10, 5), (13, 7), (20, 5), (64, 8), (200, 20)]
)
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
    [torch.zeros(2, 1, 8, 8), random_images(2, 5, 8, 8), random_images(1, 8, 8), random_images(0, 1, 8, 8)],
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


def in_columns(columns: Sequence[Sequence[Tensor]]) -> np.ndarray:
    """Return the pixels of columns of images (1, H, W) with 2 pixels between them, (height, width, 3)."""
    height, width = columns[0][0].shape[1:]
    rows = max(len(column) for column in columns)
    page = np.full((rows * (height + 2) - 2, len(columns) * (width + 2) - 2, 3), PAGE)
    for x, column in enumerate(columns):
        for y, image in enumerate(column):
            page[y * (height + 2) :, x * (width + 2) :][:height, :width] = enlarged(image, 1)
    return page


@pytest.mark.parametrize(("count", "classes", "each"), [(80, 3, 3), (80, 10, 1), (40, 2, 4), (81, 3, 3), (60, 1, 10)])
def test_a_class_has_several_columns_if_there_are_few(count: int, classes: int, each: int) -> None:
    """Image k has class k modulo the number of classes, and stands in the columns of its class, in reading order."""
    images = random_images(count, 1, 20, 20)
    names = [f"c{turn}" for turn in range(classes)]
    shown = pixels(sheets.sample_sheet(images, names, "title", scale=1))
    left = 2
    for turn in range(classes):
        own = images[turn::classes]
        expected = in_columns([list(own[column::each]) for column in range(each)])
        height, width = expected.shape[:2]
        found = shown[:, left : left + width]
        rows = -(-len(images[::classes]) // each)
        top = shown.shape[0] - rows * 22
        assert np.array_equal(found[top : top + height], expected)
        assert (found[top + height :] == PAGE).all()
        assert (found[top - 20 : top - 2] < 128).any()  # the heading
        left += width + 2 + (sheets.GROUP_GAP if each > 1 else 0)


@pytest.mark.parametrize(
    ("count", "classes", "columns", "expected"),
    [
        (64, 10, None, (8, 0)),  # Ten columns would leave a hole of six.
        (70, 10, None, (10, 1)),
        (7, 10, None, (7, 1)),
        (80, 47, None, (10, 0)),
        (20, 3, None, (5, 0)),
        (13, 1, None, (7, 7)),
        (80, 0, None, (10, 0)),
        (80, 10, 20, (20, 2)),
        (80, 10, 7, (7, 0)),
        (80, 0, 7, (7, 0)),
        (5, 10, 100, (5, 1)),
        (60, 3, 9, (9, 3)),
        (1, 10, None, (1, 1)),
    ],
)
def test_columns_of_a_sample_sheet(count: int, classes: int, columns: int | None, expected: tuple[int, int]) -> None:
    assert sheets.sample_columns(count, classes, (28, 28), columns) == expected
    sheet = sheets.sample_sheet(random_images(count, 1, 28, 28), ["name"] * classes, "", columns, 1)
    gaps = sheets.GROUP_GAP * (expected[0] // max(1, expected[1]) - 1) if expected[1] > 1 else 0
    assert sheet.width >= 2 + expected[0] * 30 + gaps


@pytest.mark.parametrize("classes", range(1, 17))
@pytest.mark.parametrize("count", [1, 9, 16, 25, 64, 80, 100])
def test_no_sample_sheet_is_a_tower_or_has_a_large_hole(count: int, classes: int) -> None:
    columns, _ = sheets.sample_columns(count, classes, (28, 28))
    rows = -(-count // columns)
    assert columns >= rows / 2
    assert columns * rows - count <= max(3, count / 16)


def test_images_have_captions_where_columns_have_no_class() -> None:
    images = random_images(6, 1, 28, 28)
    plain = sheets.grid(images, 3, scale=1)
    captioned = sheets.sample_sheet(images, ["ant", "bee"], "", 3, 1)
    assert captioned.height > plain.height + 2 * 10
    assert np.array_equal(pixels(captioned)[2:30, 2:30], enlarged(images[0], 1))
    assert (pixels(captioned)[31:43, :30] < 128).any()
    assert sheets.sample_sheet(images, (), "", 3, 1).size == plain.size


def test_long_names_do_not_stretch_a_sheet() -> None:
    names = class_titles(["n" * 300, "many words " * 30, "c"])
    sheet = sheets.sample_sheet(random_images(6, 1, 28, 28), names, "")
    assert sheet.width < 700 and sheet.height < 300


def test_classes_whose_names_cannot_be_drawn_have_their_number() -> None:
    names = ("größe", "猫", "ключ", "", "a\nb", "x猫")
    assert class_titles(names) == ["größe", "class 1", "ключ", "class 3", "a b", "class 5"]
    assert class_titles(names, (2, 1)) == ["ключ", "class 1"]


def test_a_scale_that_makes_a_huge_sheet_is_refused() -> None:
    with pytest.raises(UserError, match=r"scale 99.*smaller"):
        sheets.check_sample_sheet(80, 10, (28, 28), None, 99)
    with pytest.raises(UserError, match="scale 600"):
        sheets.grid(random_images(1, 1, 28, 28), scale=600)
    sheets.check_sample_sheet(10_000, 10, (64, 64), None, None)


def test_many_rows_of_few_images_stand_in_blocks() -> None:
    colours = [(6 * k, 0, 255 - 6 * k) for k in range(40)]
    images = torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 28, 28)
    sheet = sheets.strip([images[:20], images[20:]], ["a", "b"], "title", [f"row {row}" for row in range(20)])
    assert 0.5 < sheet.width / sheet.height < 2
    shown = pixels(sheet)
    for colour in colours:
        assert (shown == colour).all(2).sum() == 56 * 56


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
