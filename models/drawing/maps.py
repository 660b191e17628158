"""Maps of images as points in two dimensions, coloured by class. Real and generated images can be side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from models.drawing.figure_files import COLOURS, figure_file, new_figure
from models.drawing.lettering import class_titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEHIND = "0.76"  # Colour of the real images behind the generated ones.
# The colours of matplotlib's tab10, with black instead of grey.
CLASS_COLOURS = tuple(f"tab:{name}" for name in "blue orange green red purple brown pink".split())
CLASS_COLOURS += ("black", "tab:olive", "tab:cyan")
MARKERS = "o^sDvP*<Xp"
LONGEST_LEGEND = 60  # Classes.
LEGEND_LETTERS = 11.0  # Letters per inch of a legend, roughly.
MAP_INCHES = (11.0, 5.2)
FRAME_DPI = 90


@dataclass(frozen=True)
class Cloud:
    """Points (N, 2) of one source, and their labels (N,). -1 means no label."""

    points: np.ndarray
    labels: np.ndarray


def draw_class_map(
    cloud: Cloud, class_names: Sequence[str], axes_names: Sequence[str], path: Path, title: str, ticks: bool = True
) -> None:
    """Draw points in the colours and markers of their classes, with a legend below. ticks: whether axes have ticks."""
    with figure_file((7.0, 6.8), path, title) as figure:
        axes = figure.subplots()
        _scatter_classes(axes, cloud, float(np.clip(8000 / len(cloud.points), 4, 20)))
        _add_legend(figure, cloud.labels, class_names)
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
        if not ticks:
            axes.set(xticks=[], yticks=[])


@dataclass(frozen=True)
class SourceMap:
    """A map of real images, on which generated images are drawn. notes: text beside the map."""

    real: Cloud
    class_names: Sequence[str]
    axes_names: Sequence[str]
    notes: str

    def draw(self, generated: Cloud, path: Path, title: str) -> None:
        """Draw the real images, and beside them the generated ones. Raises UserError as `figure_file` does."""
        with figure_file(MAP_INCHES, path, title) as figure:
            self._draw(figure, generated, np.concatenate([self.real.points, generated.points]))

    def frame(self, generated: Cloud, title: str) -> Image.Image:
        """Return the map that `draw` draws, as a frame of an animation."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        with new_figure(MAP_INCHES, title) as figure:
            figure.set_dpi(FRAME_DPI)
            canvas = FigureCanvasAgg(figure)
            self._draw(figure, generated, self.real.points)  # The axes are the same in every frame.
            canvas.draw()
            return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())

    def _draw(self, figure: Figure, generated: Cloud, shown: np.ndarray) -> None:
        """Draw both clouds. shown: points (N, 2) that the axes enclose. A title counts the generated points outside."""
        left, right, margin = figure.subplots(1, 3, width_ratios=(4, 4, 1.7))
        size = float(np.clip(4000 / (len(self.real.points) + len(generated.points)), 4, 14))
        left.set_title("real images, by class" if self.class_names else "real images")
        _scatter_classes(left, self.real, size)
        right.scatter(*self.real.points.T, s=size, c=BEHIND, linewidths=0)
        _scatter_classes(right, generated, size, COLOURS[1])
        _add_legend(figure, np.concatenate([self.real.labels, generated.labels]), self.class_names)
        low, high = shown.min(0), shown.max(0)
        limits = np.stack([low - 0.08 * (high - low), high + 0.08 * (high - low)], axis=1)
        outside = int(((generated.points < limits[:, 0]) | (generated.points > limits[:, 1])).any(1).sum())
        note = f" ({outside} generated ones are outside)" if outside else ""
        right.set_title(f"generated images, real ones in grey{note}")
        for axes in (left, right):
            axes.set(xlabel=self.axes_names[0], ylabel=self.axes_names[1], xticks=[], yticks=[])
            axes.set(xlim=limits[0], ylim=limits[1])
        margin.axis("off")
        margin.text(0, 1, self.notes, va="top", fontsize=8.5, linespacing=1.5, transform=margin.transAxes)


def _scatter_classes(axes: Axes, cloud: Cloud, size: float, without: str = COLOURS[0]) -> None:
    """Draw the points of each marker in random order, so that no class hides another. without: colour if unlabelled."""
    order = np.random.default_rng(0).permutation(len(cloud.points))
    looks = np.array([_look(label)[1] if label >= 0 else "o" for label in cloud.labels])
    for marker in sorted(set(looks)):  # One call of scatter draws one marker.
        rows = order[looks[order] == marker]
        colours = [_look(label)[0] if label >= 0 else without for label in cloud.labels[rows]]
        axes.scatter(*cloud.points[rows].T, s=size, c=colours, marker=marker, linewidths=0, alpha=0.75)


def _look(label: int) -> tuple[str, str]:
    """Return the colour and the marker of a class. Ten classes share a marker."""
    return CLASS_COLOURS[label % 10], MARKERS[label // 10 % len(MARKERS)]


def _add_legend(figure: Figure, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Add a legend of the classes that occur, below the axes, where it covers no point."""
    from matplotlib.lines import Line2D

    present = sorted({int(label) for label in labels if label >= 0})
    names = class_titles(class_names, present)
    if not names:
        return
    handles = []
    for colour, marker in map(_look, present[:LONGEST_LEGEND]):
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6, markeredgewidth=0))
    if len(names) > LONGEST_LEGEND:
        handles.append(Line2D([], [], linestyle=""))
        names[LONGEST_LEGEND:] = [f"and {len(names) - LONGEST_LEGEND} more"]
    columns = int(LEGEND_LETTERS * figure.get_figwidth() / (max(map(len, names)) + 4))
    columns = min(len(names), max(1, columns))
    columns = -(-len(names) // -(-len(names) // columns))  # fewest columns for this number of rows
    legend = figure.legend(
        handles, names, loc="outside lower center", ncols=columns, fontsize=8, handletextpad=0.1, columnspacing=1.0
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # A class name may contain two dollar signs.
