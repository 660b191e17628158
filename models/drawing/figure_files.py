"""Figure files: the style of matplotlib figures, and writing them as PNG, PDF or SVG.

Matplotlib takes long to import, so functions import it. pyplot is not used, because it keeps figures in memory.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.drawing.lettering import keep_together
from models.errors import UserError
from models.runs.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_FORMATS = {".png": "png", ".pdf": "pdf", ".svg": "svg"}
# The colours of Okabe and Ito, which colour-blind readers can tell apart. Line styles distinguish curves in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (4, 1, 1, 1, 1, 1)))
LOOK: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "legend.frameon": False,
    "svg.hashsalt": "",  # By default, ids inside the file are random.
}


@contextmanager
def figure_file(inches: tuple[float, float], path: Path | str, title: str) -> Iterator[Figure]:
    """Yield a figure with a title, and write it to `path` atomically if the block succeeds.

    Raises UserError if the suffix is not .png, .pdf or .svg.
    """
    with new_figure(inches, title) as figure:
        format_of(path, FIGURE_FORMATS)  # An unknown suffix is reported before anything is drawn.
        yield figure
        _save_figure(figure, path)


@contextmanager
def new_figure(inches: tuple[float, float], title: str) -> Iterator[Figure]:
    """Yield a figure with a title. LOOK applies to everything drawn in the block."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=inches, dpi=150, layout="constrained")
        if title:
            lines = keep_together(title).splitlines()  # textwrap breaks no line at a no-break space.
            wrapped = "\n".join(textwrap.fill(line, round(13 * inches[0])) for line in lines).replace("\xa0", " ")
            # The name of a run may contain two dollar signs, which would begin a formula.
            figure.suptitle(wrapped, x=0.01, ha="left", fontsize=10, parse_math=False)
        yield figure


def outline() -> Any:
    """Return a path effect that puts a white outline around text."""
    from matplotlib.patheffects import withStroke

    return withStroke(linewidth=2.5, foreground="white")


def in_formats(path: Path, picture_format: str) -> list[Path]:
    """Return `path`, and the file beside it in `picture_format` if that is another format."""
    return list(dict.fromkeys([path, path.with_suffix(f".{picture_format}")]))


def format_of(path: Path | str, formats: Mapping[str, str]) -> str:
    """Return the format of a file's suffix. Raises UserError for an unknown suffix."""
    try:
        return formats[Path(path).suffix.lower()]
    except KeyError:
        raise UserError(f"{path}: the file name must end in one of {', '.join(formats)}") from None


def save_raster(pixels: np.ndarray, path: Path | str) -> None:
    """Write uint8 pixels (H, W) or (H, W, 3), unchanged, as the only image of a .pdf or .svg page."""
    import matplotlib
    from matplotlib.figure import Figure

    height, width = pixels.shape[:2]
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(width / 100, height / 100), dpi=100)
        figure.figimage(pixels, cmap="gray", vmin=0, vmax=255)
        _save_figure(figure, path)


def _save_figure(figure: Figure, path: Path | str) -> None:
    """Write a figure atomically. No date is stored, so the same figure always gives the same bytes."""
    file_format = format_of(path, FIGURE_FORMATS)
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(file_format)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=file_format, metadata=undated)
