"""Images for people: sample sheets, strips over time, single files and animations.

Everything takes uint8 images (N, C, H, W) with one or three channels, and grey stays grey from the tensor to
the file. Curves are drawn by `plots`; which images are worth showing, and what titles say, is the caller's.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.drawing import plots
from models.errors import UserError
from models.runs.files import replacing

if TYPE_CHECKING:
    from torch import Tensor


from torch import Tensor

from models.drawing import pictures

PAGE, INK = 240, 32  # Grey levels. The page is not quite white, so that white images keep their edges.
TILE = 60  # Pixels that the longer side of an enlarged image comes near to.
LONGEST_SHEET = 8000  # Pixels above which images are enlarged less.
TITLED_WIDTH = 400  # A sheet narrower than its title grows to this width before the title wraps.
TITLE_WIDTH = 160  # The widest that row titles become, and that column titles make their columns.
GAP = 6  # Pixels around text.
SMALLEST, NORMAL = 10, 12  # Font sizes of row and column titles.

IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
PAGE_FORMATS = (".pdf", ".svg")
ANIMATION_FORMATS = {".webp": "WEBP", ".gif": "GIF"}
LONGEST_ANIMATION = 16383  # Pixels; the WebP container holds no more.


def grid(
    images: Tensor,
    columns: int | None = None,
    padding: int = 2,
    scale: int | None = None,
    title: str = "",
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
) -> Image.Image:
    """A sheet of images in reading order, as a PIL image of mode L (one channel) or RGB.

    images: uint8 (N, C, H, W), N >= 1, C = 1 or 3. By default the sheet is about square, and images are
    enlarged by the whole number `scale` (nearest neighbour) that brings the longer side near 60 pixels.
    Without titles, image k begins at x = padding + (k % columns) * (scale * W + padding), and y likewise.
    Titles shrink a little, then wrap; none is cut. Raises ValueError for other shapes and types, and for
    titles that are not as many as the columns or rows.
    """
    tiles = _as_array(images)
    columns = columns or len(column_titles) or _columns(len(tiles))
    return _sheet(tiles, columns, padding, scale, title, column_titles, row_titles)


def strip(
    frames: Sequence[Tensor],
    captions: Sequence[str],
    padding: int = 2,
    scale: int | None = None,
    title: str = "",
    row_titles: Sequence[str] = (),
) -> Image.Image:
    """The same images over time: one row for each image, one column for each frame, its caption above.

    frames: T tensors, uint8 (N, C, H, W) each; captions: T texts. Otherwise as `grid`.
    """
    if len(frames) != len(captions):
        raise ValueError(f"{len(frames)} frames have {len(captions)} captions")
    tiles = np.stack([_as_array(frame) for frame in frames], axis=1)  # (N, T, H, W, C)
    tiles = tiles.reshape(-1, *tiles.shape[2:])  # (N * T, H, W, C)
    return _sheet(tiles, len(frames), padding, scale, title, captions, row_titles)


def pairs(images: Tensor, others: Tensor, columns: int, title: str = "") -> Image.Image:
    """A sheet of images, each with its counterpart to the right of it; uint8 (N, C, H, W) both. columns: of pairs."""
    tiles = _as_array(images)
    edge = np.full_like(tiles[:, :, :1], PAGE)
    tiles = np.concatenate([tiles, edge, _as_array(others)], axis=2)
    scale = max(1, round(TILE / max(images.shape[2:])))
    return _sheet(tiles, min(columns, len(tiles)), max(8, 2 * scale), scale, title, (), ())


def tiled(images: Tensor, columns: int, padding: int = 1) -> Tensor:
    """Images (N, C, H, W) side by side in one, uint8 (C, height, width): a cell of a sheet that shows several."""
    rows = math.ceil(len(images) / columns)
    channels, height, width = images.shape[1:]
    cell = images.new_full((channels, rows * (height + padding) - padding, columns * (width + padding) - padding), PAGE)
    for k, image in enumerate(images):
        y, x = k // columns * (height + padding), k % columns * (width + padding)
        cell[:, y : y + height, x : x + width] = image
    return cell


def save_image(image: Image.Image, path: Path | str) -> None:
    """Write a PNG, JPEG or WebP (lossless), by suffix, whole or not at all; or a page of PDF or SVG that holds the
    same pixels. The folder must exist. Raises UserError for another suffix.
    """
    if Path(path).suffix.lower() in PAGE_FORMATS:
        plots.save_raster(np.asarray(image), path)
        return
    options: dict[str, Any] = {"lossless": True} if Path(path).suffix.lower() == ".webp" else {}
    file_format = _format(path, IMAGE_FORMATS)
    with replacing(path) as temporary:
        image.save(temporary, format=file_format, **options)


def save_each(images: Tensor, folder: Path | str, labels: Sequence[int] | Tensor | None = None, first: int = 0) -> None:
    """Write every image, as it is, to its own PNG: `00000_label3.png`, or `00000.png` without labels.

    images: uint8 (N, C, H, W); labels: N integers. Numbers count from `first`, so that a long stream can be
    written piece by piece. The folder is made if absent.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tiles = _as_array(images)
    endings = [""] * len(tiles) if labels is None else [f"_label{int(label)}" for label in labels]
    for k, (tile, ending) in enumerate(zip(tiles, endings, strict=True), start=first):
        save_image(_as_picture(tile), folder / f"{k:05d}{ending}.png")


def animate(
    frames: Sequence[Image.Image | Tensor], path: Path | str, fps: float = 12.0, hold_last: float = 1.5
) -> None:
    """Write an endless animation, lossless WebP or GIF by suffix, that rests on its last frame.

    frames: sheets, or uint8 (N, C, H, W) of which sheets are made; smaller ones are filled up above and to
    the right. Each is shown for 1 / fps seconds (20 ms at least, whole 10 ms: what a GIF can say), the last
    for `hold_last` seconds. Raises UserError for another suffix, fps <= 0 or frames too large for the format,
    ValueError for no frames.
    """
    file_format = _format(path, ANIMATION_FORMATS)
    if not fps > 0:
        raise UserError(f"an animation needs more than 0 frames per second, not {fps:g}")
    pictures = _same_size([frame if isinstance(frame, Image.Image) else grid(frame) for frame in frames])
    if max(pictures[0].size) > LONGEST_ANIMATION:
        width, height = pictures[0].size
        raise UserError(f"{path}: frames of {width} x {height} pixels are too large; animate fewer images")
    options: dict[str, Any] = {"lossless": True, "method": 4}
    if file_format == "GIF":
        pictures, options = _paletted(pictures), {"optimize": False}
    each = max(20, round(100 / fps) * 10)
    durations = [each] * (len(pictures) - 1) + [max(each, round(hold_last * 100) * 10)]
    with replacing(path) as temporary:
        pictures[0].save(
            temporary,
            format=file_format,
            save_all=True,
            append_images=pictures[1:],
            duration=durations,
            loop=0,
            **options,
        )


def _as_array(images: Tensor) -> np.ndarray:
    """(N, H, W, C) uint8 of a tensor (N, C, H, W) on any device."""
    shape = tuple(images.shape)
    if str(images.dtype) != "torch.uint8" or len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise ValueError(f"pictures are made of uint8 (N, 1 or 3, H, W), not of {images.dtype} {shape}")
    return images.detach().cpu().permute(0, 2, 3, 1).numpy()


def _as_picture(array: np.ndarray) -> Image.Image:
    """(H, W, 1 or 3) uint8 as a PIL image of mode L or RGB."""
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array))


def _columns(count: int) -> int:
    """As square as can be, but wider (at most twice as wide) where that leaves no gap in the last row."""
    root = math.isqrt(count - 1) + 1  # The square root, rounded up.
    return next((columns for columns in range(root, 2 * root + 1) if count % columns == 0), root)


def _sheet(
    tiles: np.ndarray,
    columns: int,
    padding: int,
    scale: int | None,
    title: str,
    column_titles: Sequence[str],
    row_titles: Sequence[str],
) -> Image.Image:
    """Tiles (N, H, W, C) in cells, which are larger than the tiles only where a title needs it."""
    count, height, width, _ = tiles.shape
    rows = math.ceil(count / columns)
    if len(column_titles) not in (0, columns) or len(row_titles) not in (0, rows):
        titles = f"{len(column_titles)} column titles and {len(row_titles)} row titles"
        raise ValueError(f"{titles} do not fit {columns} columns and {rows} rows")
    if scale is None:
        most = LONGEST_SHEET // max(columns * width, rows * height)
        scale = max(1, min(round(TILE / max(height, width)), most))
    height, width = height * scale, width * scale
    words = [_longest_word(text, _font(SMALLEST)) + GAP for text in column_titles]
    cell_width = max([width, *(min(word, TITLE_WIDTH) for word in words)])
    across = _fit(column_titles, cell_width - GAP, NORMAL, SMALLEST)
    down = _fit(row_titles, TITLE_WIDTH, NORMAL, SMALLEST)
    cell_height = max([height, *(text.height for text in down)])
    step_x, step_y = cell_width + padding, cell_height + padding
    left = max((text.width + 2 * GAP for text in down), default=0)
    body_width = left + padding + columns * step_x
    heading = _heading(title, body_width)
    heading_height = heading.height + 2 * GAP if title else 0
    top = heading_height + max((text.height + GAP for text in across), default=0)

    page_width = max(body_width, heading.width + 2 * GAP if title else 0)
    page = np.full((top + padding + rows * step_y, page_width, tiles.shape[3]), PAGE, np.uint8)
    first_x = left + padding + (cell_width - width) // 2
    first_y = top + padding + (cell_height - height) // 2
    for k, tile in enumerate(tiles):
        x, y = first_x + k % columns * step_x, first_y + k // columns * step_y
        page[y : y + height, x : x + width] = tile.repeat(scale, axis=0).repeat(scale, axis=1)

    picture = _as_picture(page)
    heading.draw(picture, GAP, GAP)
    for column, text in enumerate(across):
        text.draw(picture, left + padding + column * step_x, top - text.height, cell_width, align=0.5)
    for row, text in enumerate(down):
        y = top + padding + row * step_y + (cell_height - text.height) // 2
        text.draw(picture, GAP, y, left - 2 * GAP, align=1.0)
    return picture


@dataclass(frozen=True)
class _Text:
    """Lines in one font, measured."""

    lines: tuple[str, ...]
    font: ImageFont.FreeTypeFont

    @property
    def line_height(self) -> int:
        return sum(self.font.getmetrics())

    @property
    def height(self) -> int:
        return self.line_height * len(self.lines)

    @property
    def width(self) -> int:
        return max((math.ceil(self.font.getlength(line)) for line in self.lines), default=0)

    def draw(self, picture: Image.Image, x: int, y: int, width: int = 0, align: float = 0.0) -> None:
        """Write from (x, y) down, within `width` pixels: align 0 is left, 0.5 centred, 1 right."""
        pen = ImageDraw.Draw(picture)
        for k, line in enumerate(self.lines):
            shift = round(align * (width - self.font.getlength(line)))
            ink = INK if picture.mode == "L" else (INK, INK, INK)
            pen.text((x + max(0, shift), y + k * self.line_height), line, font=self.font, fill=ink)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Pillow's own font lacks accents, Greek and Cyrillic."""
    spec = importlib.util.find_spec("matplotlib")  # Found without importing it, which is slow.
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        file = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _heading(title: str, body_width: int) -> _Text:
    """The title, in letters that grow with a very large sheet, wrapped to the sheet's width."""
    size = min(40, max(14, body_width // 80))
    return _fit([title], max(body_width, TITLED_WIDTH) - 2 * GAP, size, max(NORMAL, size * 3 // 4))[0]


def _fit(texts: Sequence[str], width: int, largest: int, smallest: int) -> list[_Text]:
    """Texts in the largest font in which all lines fit into `width`, else wrapped in the smallest."""
    for size in range(largest, smallest - 1, -1):
        fitted = [_Text(tuple(text.splitlines()), _font(size)) for text in texts]
        if all(text.width <= width for text in fitted):
            return fitted
    font = _font(smallest)
    return [
        _Text(tuple(part for line in text.splitlines() for part in _balanced(line, width, font)), font)
        for text in texts
    ]


def _balanced(line: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """As few parts as `_wrap` makes, about equally long: no single word is left on the last."""
    parts = _wrap(line, width, font)
    for narrower in range(width - 4, _longest_word(line, font), -4):
        tighter = _wrap(line, narrower, font)
        if len(tighter) > len(parts):
            break
        parts = tighter
    return parts


def _wrap(line: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Parts of a line that fit into `width`, broken between words, or inside a word that is too long."""
    parts = [""]
    for word in _words(line):
        longer = f"{parts[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            parts[-1] = longer
            continue
        parts.append("")
        for letter in word:
            if parts[-1] and font.getlength(parts[-1] + letter) > width:
                parts.append("")
            parts[-1] += letter
    return [part for part in parts if part]


def _longest_word(text: str, font: ImageFont.FreeTypeFont) -> int:
    return max((math.ceil(font.getlength(word)) for word in _words(text)), default=0)


def _words(text: str) -> list[str]:
    """What must not be broken; a dot between two parts of a title stays with the first."""
    return text.replace(" · ", "\N{NO-BREAK SPACE}· ").split(" ")


def _same_size(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Pictures of one size and mode; new room lies above and to the right, so that the images stand still."""
    if not pictures:
        raise ValueError("an animation needs at least one frame")
    size = (max(one.width for one in pictures), max(one.height for one in pictures))
    mode = "L" if all(one.mode == "L" for one in pictures) else "RGB"
    result = []
    for one in pictures:
        page = Image.new(mode, size, PAGE if mode == "L" else (PAGE, PAGE, PAGE))
        page.paste(one.convert(mode), (0, size[1] - one.height))
        result.append(page)
    return result


def _paletted(pictures: list[Image.Image]) -> list[Image.Image]:
    """Frames for a GIF: if all are grey, with all their levels; else in one palette, where grey is never tinted."""
    if all(_is_grey(one) for one in pictures):
        return [one.convert("L") for one in pictures]
    greys = [level for level in (*range(0, 256, 8), 255) for _ in range(3)]
    late = pictures[len(pictures) // 2 :]  # The first frames are often noise, whose colours nobody compares.
    montage = np.concatenate([np.asarray(one) for one in (*late[:: max(1, len(late) // 8)], late[-1])])
    colours = Image.fromarray(montage).quantize(256 - len(greys) // 3).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette((greys + colours)[:768])
    result = []
    for one in pictures:
        # Dithering would speckle the flat squares that enlarged pixels are.
        indices = np.array(one.quantize(palette=palette, dither=Image.Dither.NONE))
        levels = np.asarray(one).astype(np.uint16)  # (H, W, 3)
        neutral = (levels == levels[:, :, :1]).all(axis=2)
        indices[neutral] = (levels[neutral, 0] + 4) // 8
        frame = Image.fromarray(indices)
        frame.putpalette(palette.getpalette() or [])
        result.append(frame)
    return result


def _is_grey(picture: Image.Image) -> bool:
    levels = np.asarray(picture)
    return levels.ndim == 2 or bool((levels == levels[:, :, :1]).all())


def _format(path: Path | str, formats: dict[str, str]) -> str:
    try:
        return formats[Path(path).suffix.lower()]
    except KeyError:
        raise UserError(f"{path}: the name must end in one of {', '.join(formats)}") from None


def sheet(images: Tensor, class_names: tuple[str, ...], title: str):
    """The sample sheet: one column per class where there are few classes."""
    if 0 < len(class_names) <= 16 and len(images) >= len(class_names):
        return pictures.grid(images, columns=len(class_names), title=title, column_titles=class_names)
    return pictures.grid(images, title=title)
