"""Small folders and zips of images, and functions that read them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import data


def png(path: Path, value: int | np.ndarray, size: tuple[int, int] = (6, 5), **kwargs: Any) -> None:
    """Write a PNG of (height, width) filled with one value, or of an array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), value, np.uint8) if isinstance(value, int) else value
    Image.fromarray(pixels).save(path, **kwargs)


def zipped(folder: Path, prefix: str = "") -> Path:
    path = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, f"{prefix}{file.relative_to(folder)}")
    return path


def load(path: Path, memory_limit: float | None = None, **options: Any) -> Any:
    return data.load("folder", {"path": str(path), **options}, Path("/nonexistent"), memory_limit)


def values(split: Any) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()
