"""Text on sheets: fonts, sizes and line breaks."""

import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from models.class_names import title_of

INK = 32  # Grey level.
# Spaces at which no line breaks: around an equals sign, between a number and the word before or after it, before a "·".
BOUND = r" (?=[=·])|(?<==) |(?<=[^\W\d]) (?=\d[\d.,]*(?!\w))|(?<=\d) (?=[^\W\d])"


@dataclass(frozen=True)
class Text:
    """Lines of text in one font. All sizes are in pixels."""

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
        """Draw the lines downwards from (x, y). align: position within `width` pixels, 0 left, 0.5 centred, 1 right."""
        pen = ImageDraw.Draw(picture)
        for k, line in enumerate(self.lines):
            shift = round(align * (width - self.font.getlength(line)))
            ink = INK if picture.mode == "L" else (INK, INK, INK)
            pen.text((x + max(0, shift), y + k * self.line_height), line, font=self.font, fill=ink)


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib includes. Pillow's default font lacks accents, Greek and Cyrillic."""
    spec = importlib.util.find_spec("matplotlib")  # Importing matplotlib to find its fonts would be slow.
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        path = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    default = ImageFont.load_default(size)
    assert isinstance(default, ImageFont.FreeTypeFont)
    return default


def class_titles(names: Sequence[str], labels: Sequence[int] | None = None) -> list[str]:
    """Return the titles of `labels`, by default of all classes.

    A title with a letter that the font lacks becomes, for example, "class 3".
    """
    absent, titles = _pixels("\U0010ffff"), []
    for label in range(len(names)) if labels is None else labels:
        title = title_of(names, label)
        legible = title and all(_pixels(letter) != absent for letter in title if letter != " ")
        titles.append(title if legible else f"class {label}")
    return titles


def fit_texts(texts: Sequence[str], width: int, largest: int, smallest: int) -> list[Text]:
    """Return texts in the largest font size at which every line fits `width`, else wrapped in the smallest size."""
    for size in range(largest, smallest - 1, -1):
        fitted = [Text(tuple(text.splitlines()), font(size)) for text in texts]
        if all(text.width <= width for text in fitted):
            return fitted
    face = font(smallest)
    return [
        Text(tuple(part for line in text.splitlines() for part in _balanced(line, width, face)), face) for text in texts
    ]


def _pixels(letter: str) -> bytes:
    mask: Any = font(12).getmask(letter)
    return bytes(mask)


def longest_word(text: str, face: ImageFont.FreeTypeFont) -> int:
    """Return the width of a text's longest word in pixels."""
    return max((math.ceil(face.getlength(word)) for word in _words(text)), default=0)


def _balanced(line: str, width: int, face: ImageFont.FreeTypeFont) -> list[str]:
    """Return as few parts as `_wrap` does, but about equally long, so that no single word is left on the last line."""
    parts = _wrap(line, width, face)
    for narrower in range(width - 4, longest_word(line, face), -4):
        tighter = _wrap(line, narrower, face)
        if len(tighter) > len(parts):
            break
        parts = tighter
    return parts


def _wrap(line: str, width: int, face: ImageFont.FreeTypeFont) -> list[str]:
    """Return parts of a line that fit into `width`. The breaks are between words, or inside a word that is too long."""
    parts = [""]
    for word in _words(line):
        longer = f"{parts[-1]} {word}".strip()
        if face.getlength(longer) <= width:
            parts[-1] = longer
            continue
        parts.append("")
        for letter in word:
            if parts[-1] and face.getlength(parts[-1] + letter) > width:
                parts.append("")
            parts[-1] += letter
    return [part for part in parts if part]


def keep_together(text: str) -> str:
    """Return a text with no-break spaces in "step 294", "8 steps" and "t = 0.5", and before each "·"."""
    return re.sub(BOUND, "\N{NO-BREAK SPACE}", text)


def _words(text: str) -> list[str]:
    return keep_together(text).split(" ")
