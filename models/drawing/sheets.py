"""Sheets of images: grids, strips over time, pairs, and the sample sheet of a model.

Images are uint8 (N, C, H, W) with one, three or four channels. A sheet is a PIL image: grey images give a grey sheet,
and RGBA images are laid over the grey PAGE. The cells of a sheet are larger than the images only if a title needs more
space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from models.drawing.image_files import PAGE, as_array, as_picture, over_page, save_image
from models.drawing.lettering import Text, fit_texts, font, longest_word
from models.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

TILE = 60  # Pixels. The longer side of an enlarged image is close to this length.
LARGE = 256  # Pixels. The longer side of an enlarged image that is shown alone is at most this long.
LONGEST_SHEET = 8000  # Pixels. Images are enlarged less if the sheet would be longer.
LARGEST_SHEET = 16000  # Pixels. Longest side of a sheet with a given scale; WebP animations allow little more.
SMALL = 16  # Pixels. Images up to this side are enlarged smoothly. With square pixels, they would be hard to recognise.
TITLED_WIDTH = 400  # Pixels. A narrow sheet grows to this width before its title wraps.
TITLE_WIDTH = 160  # Pixels. Maximum width of row titles, and of columns that titles widen.
GAP = 6  # Pixels around text.
SMALLEST, NORMAL = 10, 12  # Font sizes of row and column titles.
GROUP_GAP = 8  # Pixels between the columns of two classes.
MOST_CLASSES = 16  # If a sample sheet has more classes, the classes have no columns of their own.
# Ratios of width to height of a sample sheet: the preferred ratio, the smallest and the largest.
SHAPE, NARROWEST, WIDEST = 1.25, 0.5, 3.0
FRAME_IMAGES, FRAME_COLUMNS = 20, 10  # Images and columns in the file of a frame. Its images are not enlarged.
STRIP_SHAPE = 0.7  # Ratio of width to height that a narrow strip approaches by division into blocks.


def grid(
    images: Tensor,
    columns: int | None = None,
    padding: int = 2,
    scale: int | None = None,
    title: str = "",
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    captions: Sequence[str] = (),
) -> Image.Image:
    """Return a sheet of images in reading order, a PIL image of mode L (one channel) or RGB.

    images: uint8 (N, C, H, W), N >= 1, C = 1, 3 or 4. columns: by default, one per column title, or sqrt(N)
    to 2 sqrt(N) with the fewest empty cells. scale: images are enlarged by this whole number; by default, their longer
    side becomes about 60 pixels. column_titles: each stands above the same number of columns. captions: texts below
    the images. Long titles get a smaller font, then wrap.
    Raises ValueError for other images or if the titles do not fit the grid, UserError if `scale` leads to a huge sheet.
    """
    tiles = over_page(as_array(images))
    columns = columns or len(column_titles) or _columns(len(tiles))
    count, height, width, channels = tiles.shape
    rows = math.ceil(count / columns)
    span = columns // max(1, len(column_titles))
    if span * len(column_titles) not in (0, columns) or len(row_titles) not in (0, rows) or span == 0:
        titles = f"{len(column_titles)} column titles and {len(row_titles)} row titles"
        raise ValueError(f"{titles} do not fit {columns} columns and {rows} rows")
    check_scale(scale, (height, width), columns, rows)
    scale = scale or _usual_scale((height, width), (height, width), columns, rows)
    height, width = height * scale, width * scale
    words = [(longest_word(text, font(SMALLEST)) + GAP) // span for text in column_titles]
    words += [longest_word(text, font(SMALLEST)) + GAP for text in captions]
    cell_width = max([width, *(min(word, TITLE_WIDTH) for word in words)])
    step_x, apart = cell_width + padding, GROUP_GAP if 1 < len(column_titles) < columns else 0
    group_width = span * step_x - padding
    across = fit_texts(column_titles, group_width - GAP, NORMAL, SMALLEST)
    down = fit_texts(row_titles, TITLE_WIDTH, NORMAL, SMALLEST)
    below = fit_texts(captions, cell_width - GAP // 2, SMALLEST, SMALLEST)
    cell_height = max([height, *(text.height for text in down)])
    step_y = cell_height + padding + max((text.height + GAP // 2 for text in below), default=0)
    left = max((text.width + 2 * GAP for text in down), default=0) + padding
    body_width = left + columns * step_x + (columns // span - 1) * apart
    heading = _heading(title, body_width)
    heading_height = heading.height + 2 * GAP if title else 0
    top = heading_height + max((text.height + GAP for text in across), default=0) + padding

    page_width = max(body_width, heading.width + 2 * GAP if title else 0)
    page = np.full((top + rows * step_y, page_width, channels), PAGE, np.uint8)
    first_x, first_y = left + (cell_width - width) // 2, top + (cell_height - height) // 2
    corners = []
    for k, tile in enumerate(tiles):
        x, y = first_x + k % columns * step_x + k % columns // span * apart, first_y + k // columns * step_y
        page[y : y + height, x : x + width] = _enlarged(tile, scale)
        corners.append((x - (cell_width - width) // 2, y + height))

    picture = as_picture(page)
    heading.draw(picture, GAP, GAP)
    for group, text in enumerate(across):
        text.draw(picture, left + group * (span * step_x + apart), top - padding - text.height, group_width, align=0.5)
    for row, text in enumerate(down):
        y = top + row * step_y + (cell_height - text.height) // 2
        text.draw(picture, GAP, y, left - padding - 2 * GAP, align=1.0)
    for (x, y), text in zip(corners, below, strict=False):
        text.draw(picture, x, y, cell_width, align=0.5)
    return picture


def _usual_scale(size: tuple[int, int], cell: tuple[int, int], columns: int, rows: int) -> int:
    """Return the scale that brings images of a size close to TILE, or a smaller one if a sheet would be too long.

    size, cell: height and width of an image, and of a cell of the sheet.
    """
    longest = max(cell[0] * rows, cell[1] * columns)
    return max(1, min(round(TILE / max(size)), LONGEST_SHEET // longest))


def check_scale(scale: int | None, size: tuple[int, int], columns: int, rows: int) -> None:
    """Raise UserError if a `scale` above 1 makes a sheet of images of this size longer than LARGEST_SHEET pixels."""
    height, width = (side * number * (scale or 1) for side, number in zip(size, (rows, columns), strict=True))
    if scale is not None and scale > 1 and max(height, width) > LARGEST_SHEET:
        reason = f"the sheet would have {width:,} x {height:,} pixels, but at most {LARGEST_SHEET:,} a side are allowed"
        raise UserError(f"`scale` {scale}: {reason}", "use a smaller `scale`")


def strip(
    frames: Sequence[Tensor],
    captions: Sequence[str],
    title: str = "",
    row_titles: Sequence[str] = (),
    scale: int | None = None,
) -> Image.Image:
    """Return a sheet of the same images over time: a row for each image, a column for each frame.

    frames: T tensors, uint8 (N, C, H, W); captions: T texts. If there are many rows and few columns, the rows
    are divided into blocks side by side. Raises ValueError as `grid` does, and unless there are T captions.
    """
    import torch

    if len(frames) != len(captions):
        raise ValueError(f"{len(frames)} frames have {len(captions)} captions")
    count, _, height, width = frames[0].shape
    blocks = max(1, round(math.sqrt(STRIP_SHAPE * count * height / (len(frames) * width))))
    each = math.ceil(count / blocks)
    pictures = []
    for first in range(0, count, each):
        rows = slice(first, first + each)
        tiles = torch.stack([frame[rows].cpu() for frame in frames], dim=1).flatten(0, 1)  # (rows * T, C, H, W)
        heading = title if blocks == 1 else ""
        titles = {"title": heading, "column_titles": captions, "row_titles": row_titles[rows]}
        pictures.append(grid(tiles, len(frames), scale=scale, **titles))
    return pictures[0] if blocks == 1 else side_by_side(pictures, title)


def save_frames(frames: Sequence[Tensor], times: Sequence[float], folder: Path) -> None:
    """Write a PNG without text for each frame, e.g. `03_t0.70.png`, with the first images of the frame.

    frames: uint8 (N, C, H, W), not enlarged; times: t of each frame. The folder is created if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index, (frame, t) in enumerate(zip(frames, times, strict=True)):
        sheet = grid(frame[:FRAME_IMAGES], min(FRAME_COLUMNS, len(frame)), padding=1, scale=1)
        save_image(sheet, folder / f"{index:02d}_t{t:.2f}.png")


def large(image: Tensor, title: str = "") -> Image.Image:
    """Return a sheet of a single image, uint8 (C, H, W), enlarged by a whole number."""
    return grid(image[None], padding=0, scale=max(1, LARGE // max(image.shape[1:])), title=title)


def pairs(images: Tensor, partners: Tensor, columns: int, title: str = "", scale: int | None = None) -> Image.Image:
    """Return a sheet of images, each with its partner on its right; both uint8 (N, C, H, W). columns: pairs per row."""
    import torch

    rows, (height, width) = math.ceil(len(images) / columns), images.shape[2:]
    scale = scale or _usual_scale((height, width), (height, 2 * width), columns, rows)
    large, large_partners = enlarged(images, scale), enlarged(partners, scale)
    edge = torch.full_like(large[:, :, :, :scale], PAGE)
    tiles = torch.cat([large, edge, large_partners], dim=3)
    return grid(tiles, min(columns, len(tiles)), max(8, 2 * scale), 1, title)


def sample_sheet(
    images: Tensor, names: Sequence[str], title: str, columns: int | None = None, scale: int | None = None
) -> Image.Image:
    """Return a sheet of samples, on which each class has its own columns below its title.

    images: their classes take turns, in the order of `names`. names: titles of the classes; empty for images without a
    class. Each image has a caption, and classes have no columns, if there are many classes, if `columns` is not a
    multiple of the number of classes, or if columns by class would leave many empty cells or make the sheet too narrow
    or too wide (see `sample_columns`).
    """
    import torch

    columns, each = sample_columns(len(images), len(names), (images.shape[2], images.shape[3]), columns)
    if not each:
        captions = [names[index % len(names)] for index in range(len(images))] if names else ()
        return grid(images, columns, scale=scale, title=title, captions=captions)
    turns = columns // each
    rows = math.ceil(math.ceil(len(images) / turns) / each)
    tiles = images.new_full((turns, rows * each, *images.shape[1:]), PAGE)
    for turn in range(turns):
        own = images[turn::turns]
        tiles[turn, : len(own)] = own
    in_rows = torch.cat(tuple(tiles.unflatten(1, (rows, each))), dim=1).flatten(0, 1)  # (rows * columns, C, H, W)
    return grid(in_rows, columns, scale=scale, title=title, column_titles=names[:turns])


def check_sample_sheet(count: int, classes: int, size: tuple[int, int], columns: int | None, scale: int | None) -> None:
    """Raise UserError if `scale` leads to a huge sheet of `count` samples."""
    columns, _ = sample_columns(count, classes, size, columns)
    check_scale(scale, size, columns, math.ceil(count / columns))


def sample_columns(count: int, classes: int, size: tuple[int, int], columns: int | None = None) -> tuple[int, int]:
    """Return the number of columns of a sample sheet, and how many each class has; 0 if columns are not by class.

    columns: a given number of columns. size: height and width of the images.
    """
    turns = min(classes, count)
    if columns is not None:
        columns = min(columns, count)
        return columns, columns // turns if 0 < turns <= MOST_CLASSES and columns % turns == 0 else 0
    if turns == 1:
        return _columns(count), _columns(count)
    if not 0 < turns <= MOST_CLASSES:
        return _columns(count), 0
    best = []
    most = math.ceil(count / turns)
    for each in range(1, most + 1):
        rows = math.ceil(most / each)
        holes, ratio = (turns * rows * each - count) / count, turns * each * size[1] / (rows * size[0])
        if holes <= 1 / 16 and ratio >= NARROWEST and (ratio <= WIDEST or each == 1):
            best.append((abs(math.log(ratio / SHAPE)) + 4 * holes, each))
    each = min(best)[1] if best else 0
    return (turns * each, each) if each else (_columns(count), 0)


def tiled(images: Tensor, columns: int, padding: int = 1) -> Tensor:
    """Return one image (C, height, width) with images (N, C, H, W) in rows, all uint8, as a cell of a larger sheet."""
    # torchvision.utils.make_grid makes grey images RGB, pads the outside, treats one image differently, and takes
    # seconds to import.
    rows = math.ceil(len(images) / columns)
    channels, height, width = images.shape[1:]
    cell = images.new_full((channels, rows * (height + padding) - padding, columns * (width + padding) - padding), PAGE)
    for k, image in enumerate(images):
        y, x = k // columns * (height + padding), k % columns * (width + padding)
        cell[:, y : y + height, x : x + width] = image
    return cell


def _columns(count: int) -> int:
    """Return the number of columns with the fewest holes, between the square root of `count` and twice this root."""
    root = math.isqrt(count - 1) + 1  # The square root, rounded up.
    return min(range(root, 2 * root + 1), key=lambda columns: (-count % columns, columns))


def enlarged(images: Tensor, scale: int) -> Tensor:
    """Return images (N, C, H, W) enlarged by a whole number as `grid` enlarges them, on the CPU."""
    import torch

    return torch.from_numpy(np.stack([_enlarged(tile, scale) for tile in as_array(images)])).permute(0, 3, 1, 2)


def _enlarged(tile: np.ndarray, scale: int) -> np.ndarray:
    """Return an image (H, W, C) enlarged by a whole number: smoothly if it is small, else by repeating its pixels."""
    height, width, _ = tile.shape
    if scale == 1 or max(height, width) > SMALL:
        return tile.repeat(scale, axis=0).repeat(scale, axis=1)
    large = as_picture(tile).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    return np.asarray(large).reshape(height * scale, width * scale, -1)


def side_by_side(pictures: Sequence[Image.Image], title: str) -> Image.Image:
    """Return pictures beside each other below a title."""
    width = sum(picture.width + 2 * GAP for picture in pictures) - 2 * GAP
    heading = _heading(title, width)
    top = heading.height + 2 * GAP if title else 0
    size = max(width, heading.width + 2 * GAP), top + max(picture.height for picture in pictures)
    page = Image.new(pictures[0].mode, size, PAGE if pictures[0].mode == "L" else (PAGE, PAGE, PAGE))
    heading.draw(page, GAP, GAP)
    x = 0
    for picture in pictures:
        page.paste(picture, (x, top))
        x += picture.width + 2 * GAP
    return page


def _heading(title: str, body_width: int) -> Text:
    """Return the title, wrapped to the sheet's width, in a font that grows with the sheet."""
    size = min(40, max(14, body_width // 80))
    return fit_texts([title], max(body_width, TITLED_WIDTH) - 2 * GAP, size, max(NORMAL, size * 3 // 4))[0]
