"""Sheets of images: grids, strips over time, pairs, and the sample sheet of a model.

Images are uint8 (N, C, H, W) with one, three or four channels. A sheet is a PIL image: grey images give a grey sheet,
and transparent ones are laid over the page. Its cells are larger than the images only if a title needs more space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from models.drawing.image_files import PAGE, as_array, as_picture, over_page
from models.drawing.lettering import Text, fit_texts, font, longest_word

if TYPE_CHECKING:
    from torch import Tensor

TILE = 60  # Pixels. The longer side of an enlarged image is close to this length.
LONGEST_SHEET = 8000  # Pixels. Images are enlarged less if the sheet would be longer.
TITLED_WIDTH = 400  # Pixels. A narrow sheet grows to this width before its title wraps.
TITLE_WIDTH = 160  # Pixels. Maximum width of row titles, and of columns that titles widen.
GAP = 6  # Pixels around text.
SMALLEST, NORMAL = 10, 12  # Font sizes of row and column titles.
MOST_COLUMNS = 16  # A sample sheet has a column for each class up to this number of classes.


def grid(
    images: Tensor,
    columns: int | None = None,
    padding: int = 2,
    scale: int | None = None,
    title: str = "",
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
) -> Image.Image:
    """Return a sheet of images in reading order, a PIL image of mode L (one channel) or RGB.

    images: uint8 (N, C, H, W), N >= 1, C = 1, 3 or 4. columns: by default, the sheet is about square. scale: images are
    enlarged by this whole number (nearest neighbour); by default, their longer side becomes about 60 pixels. Long
    titles get a smaller font, then wrap. Raises ValueError for other images or another number of titles.
    """
    tiles = over_page(as_array(images))
    columns = columns or len(column_titles) or _columns(len(tiles))
    count, height, width, channels = tiles.shape
    rows = math.ceil(count / columns)
    if len(column_titles) not in (0, columns) or len(row_titles) not in (0, rows):
        titles = f"{len(column_titles)} column titles and {len(row_titles)} row titles"
        raise ValueError(f"{titles} do not fit {columns} columns and {rows} rows")
    if scale is None:
        largest = LONGEST_SHEET // max(columns * width, rows * height)
        scale = max(1, min(round(TILE / max(height, width)), largest))
    height, width = height * scale, width * scale
    words = [longest_word(text, font(SMALLEST)) + GAP for text in column_titles]
    cell_width = max([width, *(min(word, TITLE_WIDTH) for word in words)])
    across = fit_texts(column_titles, cell_width - GAP, NORMAL, SMALLEST)
    down = fit_texts(row_titles, TITLE_WIDTH, NORMAL, SMALLEST)
    cell_height = max([height, *(text.height for text in down)])
    step_x, step_y = cell_width + padding, cell_height + padding
    left = max((text.width + 2 * GAP for text in down), default=0) + padding
    body_width = left + columns * step_x
    heading = _heading(title, body_width)
    heading_height = heading.height + 2 * GAP if title else 0
    top = heading_height + max((text.height + GAP for text in across), default=0) + padding

    page_width = max(body_width, heading.width + 2 * GAP if title else 0)
    page = np.full((top + rows * step_y, page_width, channels), PAGE, np.uint8)
    first_x, first_y = left + (cell_width - width) // 2, top + (cell_height - height) // 2
    for k, tile in enumerate(tiles):
        x, y = first_x + k % columns * step_x, first_y + k // columns * step_y
        page[y : y + height, x : x + width] = tile.repeat(scale, axis=0).repeat(scale, axis=1)

    picture = as_picture(page)
    heading.draw(picture, GAP, GAP)
    for column, text in enumerate(across):
        text.draw(picture, left + column * step_x, top - padding - text.height, cell_width, align=0.5)
    for row, text in enumerate(down):
        y = top + row * step_y + (cell_height - text.height) // 2
        text.draw(picture, GAP, y, left - padding - 2 * GAP, align=1.0)
    return picture


def strip(
    frames: Sequence[Tensor], captions: Sequence[str], title: str = "", row_titles: Sequence[str] = ()
) -> Image.Image:
    """Return a sheet of the same images over time: a row for each image, a column for each frame.

    frames: T tensors, uint8 (N, C, H, W); captions: T texts. Raises ValueError as `grid` does.
    """
    import torch

    if len(frames) != len(captions):
        raise ValueError(f"{len(frames)} frames have {len(captions)} captions")
    tiles = torch.stack([frame.cpu() for frame in frames], dim=1).flatten(0, 1)  # (N * T, C, H, W)
    return grid(tiles, len(frames), title=title, column_titles=captions, row_titles=row_titles)


def pairs(images: Tensor, partners: Tensor, columns: int, title: str = "") -> Image.Image:
    """Return a sheet of images, each with its partner on its right; both uint8 (N, C, H, W). columns: pairs per row."""
    import torch

    images = images.cpu()
    edge = torch.full_like(images[:, :, :, :1], PAGE)
    scale = max(1, round(TILE / max(images.shape[2:])))
    tiles = torch.cat([images, edge, partners.cpu()], dim=3)
    return grid(tiles, min(columns, len(tiles)), max(8, 2 * scale), scale, title)


def sample_sheet(images: Tensor, class_names: Sequence[str], title: str) -> Image.Image:
    """Return a grid of samples with a titled column for each class, or an untitled grid if there are many classes."""
    if 0 < len(class_names) <= MOST_COLUMNS and len(images) >= len(class_names):
        return grid(images, title=title, column_titles=class_names)
    return grid(images, title=title)


def tiled(images: Tensor, columns: int, padding: int = 1) -> Tensor:
    """Return images (N, C, H, W) side by side as one image, uint8 (C, height, width): a cell of a larger sheet."""
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
    """Return the number of columns: the root of `count` rounded up, or up to twice that if it fills the last row."""
    root = math.isqrt(count - 1) + 1  # The square root, rounded up.
    return next((columns for columns in range(root, 2 * root + 1) if count % columns == 0), root)


def _heading(title: str, body_width: int) -> Text:
    """Return the title, wrapped to the sheet's width, in a font that grows with the sheet."""
    size = min(40, max(14, body_width // 80))
    return fit_texts([title], max(body_width, TITLED_WIDTH) - 2 * GAP, size, max(NORMAL, size * 3 // 4))[0]
