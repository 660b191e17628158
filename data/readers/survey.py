"""Images that decode to one colour or nearly black, so their contents are lost. They are counted and reported once."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from data.readers.decoding import Decoded

if TYPE_CHECKING:
    from data.readers.pictures import Target

_FLAT = 8  # Largest range of values of an image that looks like one colour.
_VARIED = 64  # Smallest range of values or of transparency of a file that holds a picture.
_DARK = 16  # Largest value of a nearly black image, such as an image of 12-bit values in a 16-bit file.


@dataclass
class Survey:
    """Record of images that look wrong. Several threads may use it, because appending to a list is atomic.

    seen: a True for each image. blank: a True for each image that is of one colour once its transparency is removed.
    dark: for each nearly black image, the largest value that its file can hold and the largest that it holds.
    """

    target: "Target"
    seen: list[bool] = field(default_factory=list)
    blank: list[bool] = field(default_factory=list)
    dark: list[tuple[int, float]] = field(default_factory=list)

    def look(self, pixels: np.ndarray, flat: Image.Image, decoded: Decoded) -> None:
        """Record whether an image looks blank or too dark.

        pixels: the image as it is used. flat: before cropping and scaling. decoded: before conversion to 8 bits.
        """
        self.seen.append(True)
        low, high = int(pixels.min()), int(pixels.max())
        if high - low > _FLAT and high > _DARK:
            return
        clear, image = decoded.image.has_transparency_data, decoded.image
        file = _extremes(image.convert("RGBA") if clear and image.mode in ("P", "PA") else image)
        varied = any(high - low >= _VARIED for low, high in file)
        if varied and clear and self.target.channels != 4 and high - low <= _FLAT:
            self.blank.append(True)
        elif high <= _DARK and max(high - low for low, high in file) > 0 and not self.target.white_level:
            peak = max(high for _, high in _extremes(flat))
            deep = image.mode.startswith(("I", "F"))
            self.dark.append((decoded.top, file[0][1] if deep else (peak + 1) * (decoded.top + 1) / 256 - 1))

    def notes(self, source: str) -> list[str]:
        """Return a line for each kind of image that looks wrong, with the option that corrects it."""
        lines = []
        if self.blank:
            under = self.target.background
            other = "black" if under == "white" else "white"
            lines.append(
                f"{source}: {_of(len(self.blank), len(self.seen))} of one colour: transparency is laid over {under}; "
                f"use `dataset.background` {other} or `dataset.channels` 4"
            )
        if self.dark:
            top = max(top for top, _ in self.dark)
            peak = round(max(peak for each, peak in self.dark if each == top))
            level = 2 ** max(1, peak.bit_length()) - 1
            lines.append(
                f"{source}: {_of(len(self.dark), len(self.seen))} nearly black: their maximum is {peak} of {top}; "
                f"use `dataset.white_level` {level}"
            )
        return lines


def _of(count: int, total: int) -> str:
    return f"{count} of {total} images {'is' if count == 1 else 'are'}"


def _extremes(image: Image.Image) -> list[tuple[float, float]]:
    """Return the smallest and the largest value of each band."""
    extremes = image.getextrema()
    return [extremes] if isinstance(extremes[0], (int, float)) else list(extremes)  # pyright: ignore
