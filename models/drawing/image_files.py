"""Files of images (PNG, JPEG, WebP, PDF, SVG) and of animations (WebP, GIF)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from models.class_names import ending_of
from models.drawing.figure_files import format_of, in_formats, save_raster
from models.errors import UserError
from models.runs.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

PAGE = 240  # Grey level of the background. It is not white, so that white images have visible edges.
IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
PAGE_FORMATS = (".pdf", ".svg")
ANIMATION_FORMATS = {".webp": "WEBP", ".gif": "GIF"}
LONGEST_SIDES = {"WEBP": 16383, "GIF": 65535}  # Largest width and height in pixels that each format can hold.


def save_image(image: Image.Image, path: Path | str) -> None:
    """Write an image file atomically, in the format of its suffix. WebP is lossless.

    The folder must exist. Raises UserError for an unknown suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix in PAGE_FORMATS:
        save_raster(np.asarray(image), path)
        return
    file_format = format_of(path, IMAGE_FORMATS)
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    with replacing(path) as temporary:
        image.save(temporary, format=file_format, **options)


def save_with(image: Image.Image, path: Path, picture_format: str) -> None:
    """Write an image to `path`, and beside it in `picture_format` if that is another format."""
    for file in in_formats(path, picture_format):
        save_image(image, file)


def save_each(
    images: Tensor,
    folder: Path | str,
    labels: Sequence[int] | Tensor | None = None,
    first: int = 0,
    class_names: Sequence[str] = (),
) -> None:
    """Write each image as its own PNG, unchanged: `00000_label8_Bag.png`, or `00000.png` without labels.

    images: uint8 (N, C, H, W); labels: N integers. first: number of the first image. The folder is created if missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tiles = as_array(images)
    endings = [""] * len(tiles) if labels is None else [ending_of(class_names, int(label)) for label in labels]
    for k, (tile, ending) in enumerate(zip(tiles, endings, strict=True), start=first):
        save_image(as_picture(tile), folder / f"{k:05d}{ending}.png")


def replace_each(images: Tensor, folder: Path, labels: Sequence[int] | None, class_names: Sequence[str]) -> None:
    """Write each image as `save_each` does, after removing the numbered images of an earlier call."""
    for earlier in folder.glob(f"{'[0-9]' * 5}*.png"):
        earlier.unlink()
    save_each(images, folder, labels, class_names=class_names)


def animate(frames: Sequence[Image.Image], path: Path | str, fps: float = 12.0, hold_last: float = 1.5) -> None:
    """Write an endless animation in the format of the file's suffix, lossless WebP or GIF.

    frames: smaller frames are padded above and right. fps: frames per second; durations are multiples of 10 ms and
    at least 20 ms. hold_last: seconds for which the last frame is shown. Raises UserError for another suffix, for fps
    <= 0 and for frames too large for the format, ValueError if there are no frames.
    """
    file_format = format_of(path, ANIMATION_FORMATS)
    if not fps > 0:
        raise UserError(f"`fps` {fps:g}: must be more than 0")
    pages = _same_size(frames)
    width, height = pages[0].size
    if max(width, height) > LONGEST_SIDES[file_format]:
        raise UserError(f"{path}: frames of {width} x {height} pixels are too large", "animate fewer images")
    options: dict[str, Any] = {"lossless": True, "method": 4}
    if file_format == "GIF":
        pages, options = _paletted(pages), {"optimize": False}
    duration = max(20, round(100 / fps) * 10)
    durations = [duration] * (len(pages) - 1) + [max(duration, round(hold_last * 100) * 10)]
    options |= {"save_all": True, "append_images": pages[1:], "duration": durations, "loop": 0}
    with replacing(path) as temporary:
        pages[0].save(temporary, format=file_format, **options)


def as_array(images: Tensor) -> np.ndarray:
    """Return uint8 images (N, C, H, W) on any device as an array (N, H, W, C). Raises ValueError for other tensors."""
    shape = tuple(images.shape)
    if str(images.dtype) != "torch.uint8" or len(shape) != 4 or shape[1] not in (1, 3, 4) or 0 in shape:
        raise ValueError(f"images must be uint8 (N, C, H, W) with C = 1, 3 or 4, not {images.dtype} {shape}")
    return images.detach().cpu().permute(0, 2, 3, 1).numpy()


def over_page(tiles: np.ndarray) -> np.ndarray:
    """Return uint8 images (N, H, W, C), C = 1 or 3. RGBA images are laid over the grey PAGE, others are unchanged."""
    if tiles.shape[3] != 4:
        return tiles
    alpha = tiles[..., 3:] / 255
    return np.rint(tiles[..., :3] * alpha + PAGE * (1 - alpha)).astype(np.uint8)


def as_picture(array: np.ndarray) -> Image.Image:
    """Return uint8 (H, W, C), C = 1, 3 or 4, as a PIL image of mode L, RGB or RGBA."""
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array))


def _same_size(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Return frames of one size and mode, padded above and on the right so that their images do not move."""
    if not frames:
        raise ValueError("an animation needs at least one frame")
    size = (max(frame.width for frame in frames), max(frame.height for frame in frames))
    mode = "L" if all(frame.mode == "L" for frame in frames) else "RGB"
    pages = []
    for frame in frames:
        page = Image.new(mode, size, PAGE if mode == "L" else (PAGE, PAGE, PAGE))
        page.paste(frame.convert(mode), (0, size[1] - frame.height))
        pages.append(page)
    return pages


def _paletted(frames: list[Image.Image]) -> list[Image.Image]:
    """Return frames for a GIF. If all are grey, all levels are kept. If not, all share a palette with neutral greys."""
    if all(_is_grey(frame) for frame in frames):
        return [frame.convert("L") for frame in frames]
    greys = [level for level in (*range(0, 256, 8), 255) for _ in range(3)]
    late = frames[len(frames) // 2 :]  # The first frames are often noise, whose colours do not matter.
    montage = np.concatenate([np.asarray(frame) for frame in (*late[:: max(1, len(late) // 8)], late[-1])])
    colours = Image.fromarray(montage).quantize(256 - len(greys) // 3).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette((greys + colours)[:768])
    paletted = []
    for frame in frames:
        # Dithering would put speckles on the flat squares of enlarged pixels.
        indices = np.array(frame.quantize(palette=palette, dither=Image.Dither.NONE))
        levels = np.asarray(frame).astype(np.uint16)  # (H, W, 3)
        neutral = (levels == levels[:, :, :1]).all(axis=2)
        indices[neutral] = (levels[neutral, 0] + 4) // 8
        indexed = Image.fromarray(indices)
        indexed.putpalette(palette.getpalette() or [])
        paletted.append(indexed)
    return paletted


def _is_grey(frame: Image.Image) -> bool:
    levels = np.asarray(frame)
    return levels.ndim == 2 or bool((levels == levels[:, :, :1]).all())
