"""Maps: images as points in two dimensions, coloured by class and by source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from models.drawing.figure_files import COLOURS, figure_file, new_figure, outline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_CLASS = "0.6"  # Colour of points without a label.
MAP_INCHES = (11.0, 4.9)
FRAME_DPI = 90


@dataclass(frozen=True)
class Cloud:
    """Points (N, 2) of one source, and their labels (N,). -1 means no label."""

    points: np.ndarray
    labels: np.ndarray


def draw_class_map(
    cloud: Cloud, class_names: Sequence[str], axes_names: Sequence[str], path: Path, title: str, ticks: bool = True
) -> None:
    """Draw points in the colours of their classes, with each class name at their median. ticks: number the axes."""
    with figure_file((7.0, 6.2), path, title) as figure:
        axes = figure.subplots()
        _scatter_classes(axes, cloud, len(class_names), float(np.clip(8000 / len(cloud.points), 4, 20)), "o")
        _name_classes(axes, cloud, class_names)
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
        """Draw the map twice, by class and by source. Raises UserError if the suffix is not .png, .pdf or .svg."""
        with figure_file(MAP_INCHES, path, title) as figure:
            self._draw(figure, generated)

    def frame(self, generated: Cloud, title: str) -> Image.Image:
        """Return the same map as a frame of an animation."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        with new_figure(MAP_INCHES, title) as figure:
            figure.set_dpi(FRAME_DPI)
            canvas = FigureCanvasAgg(figure)
            self._draw(figure, generated)
            canvas.draw()
            return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())

    def _draw(self, figure: Figure, generated: Cloud) -> None:
        by_class, by_source, margin = figure.subplots(1, 3, width_ratios=(4, 4, 1.7))
        points = np.concatenate([self.real.points, generated.points])
        size = float(np.clip(4000 / len(points), 3, 14))
        for cloud, marker in ((self.real, "o"), (generated, "^")):
            _scatter_classes(by_class, cloud, len(self.class_names), size, marker)
        _name_classes(by_class, self.real, self.class_names)
        by_class.set_title("by class  (● real, ▲ generated)")
        order = np.random.default_rng(0).permutation(len(points))  # In random order, neither source hides the other.
        colours = np.array([COLOURS[0]] * len(self.real.points) + [COLOURS[1]] * len(generated.points))
        by_source.scatter(*points[order].T, s=size, c=colours[order].tolist(), linewidths=0, alpha=0.6)
        by_source.set_title("by source")
        for colour, source in zip(COLOURS, ("real", "generated"), strict=False):
            by_source.scatter([], [], s=20, c=colour, label=source)
        by_source.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
        # The limits depend on the real images alone, so that they are the same in every frame.
        low, high = self.real.points.min(0), self.real.points.max(0)
        limits = np.stack([low - 0.08 * (high - low), high + 0.08 * (high - low)], axis=1)
        for axes in (by_class, by_source):
            axes.set(xlabel=self.axes_names[0], ylabel=self.axes_names[1], xticks=[], yticks=[])
            axes.set(xlim=limits[0], ylim=limits[1])
        margin.axis("off")
        margin.text(0, 1, self.notes, va="top", fontsize=8.5, linespacing=1.5, transform=margin.transAxes)


def _scatter_classes(axes: Axes, cloud: Cloud, classes: int, size: float, marker: str) -> None:
    palette = _class_colours(classes)
    colours = [palette[label] if label >= 0 else NO_CLASS for label in cloud.labels]
    axes.scatter(*cloud.points.T, s=size, c=colours, marker=marker, linewidths=0, alpha=0.75)


def _class_colours(count: int) -> list[tuple[float, float, float, float]]:
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](index) for index in range(10)]
    return [colormaps["nipy_spectral"](0.05 + 0.9 * index / (count - 1)) for index in range(count)]


def _name_classes(axes: Axes, cloud: Cloud, class_names: Sequence[str]) -> None:
    """Write each class name at the median of its points."""
    for label, name in enumerate(class_names):
        members = cloud.points[cloud.labels == label]
        if len(members):
            x, y = np.median(members, axis=0)
            axes.text(x, y, name, ha="center", va="center", weight="bold", path_effects=[outline()])
