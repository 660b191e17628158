"""Figures of what was measured on images: guidance against its scale, and maps of one or two sets of them.

As in `plots`, matplotlib is imported when something is drawn, and what the numbers mean is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from models.drawing.plots import COLOURS, drawing, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_CLASS = "0.6"


def guidance_curves(
    rows: Sequence[Mapping[str, float]], classifier_accuracy: float, path: Path | str, title: str
) -> None:
    """Draw accuracy, with its interval, and diversity against the guidance scale.

    rows: one for each scale: scale, accuracy, accuracy_low, accuracy_high, diversity (1 is the real images').
    """
    rows = sorted(rows, key=lambda row: row["scale"])
    scale, accuracy, low, high, diversity = (
        np.array([row[name] for row in rows])
        for name in ("scale", "accuracy", "accuracy_low", "accuracy_high", "diversity")
    )
    with drawing((9.0, 3.9), path, title) as figure:
        left, right = figure.subplots(1, 2)
        place = np.arange(len(scale))  # One column each, as in the picture: scales crowd near 1.
        left.fill_between(place, 100 * low, 100 * high, color=COLOURS[0], alpha=0.15, linewidth=0)
        left.plot(place, 100 * accuracy, "o-", color=COLOURS[0], markersize=4, label="generated, 95 % interval")
        left.axhline(100 * classifier_accuracy, color="0.35", linestyle="--", linewidth=1, label="real test images")
        left.set(title="recognised as the class asked for", ylabel="%")
        right.plot(place, diversity, "s-", color=COLOURS[1], markersize=4, label="generated")
        right.axhline(1, color="0.35", linestyle="--", linewidth=1, label="real test images")
        right.set(title="diversity within a class, relative to real images", ylabel="mean pairwise distance, ratio")
        right.set_ylim(0, max(1.1, 1.08 * diversity.max()))
        for axes, values, form in ((left, 100 * accuracy, "{:.1f}"), (right, diversity, "{:.2f}")):
            for x, y in enumerate(values.tolist()):
                _note(axes, form.format(y), x, y)
            axes.set(xlabel="guidance scale  (0 = unconditional, 1 = conditional)", xlim=(-0.4, len(place) - 0.6))
            axes.set_xticks(place, [f"{value:g}" for value in scale])
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, fontsize=8)


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str], path: Path, title: str) -> None:
    """Draw which class (row) was taken for which (column), in shares of the row, each number in its cell.

    counts: (classes, classes) whole numbers.
    """
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 1.8 + 0.45 * len(counts)
    with drawing((side + 1.2, side), path, title) as figure:
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        axes.grid(False)
        places = np.arange(len(counts))
        turned = {"rotation": 45, "ha": "right"} if max(map(len, class_names)) > 2 else {}
        axes.set_xticks(places, class_names, fontsize=8, **turned)
        axes.set_yticks(places, class_names, fontsize=8)
        axes.set(xlabel="recognised as, % of those asked for", ylabel="asked for")
        for row, column in zip(*np.nonzero(counts), strict=True):
            value = shares[row, column]
            text = f"{value:.0f}" if value >= 10 else f"{value:.1f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if value > 55 else "0.25")


def _note(axes: Axes, text: str, x: float, y: float) -> None:
    """A number below its point, on a white ground."""
    axes.annotate(text, (x, y), (0, -13), textcoords="offset points", ha="center", fontsize=7.5, path_effects=[_halo()])


def _halo() -> Any:
    from matplotlib.patheffects import withStroke

    return withStroke(linewidth=2.5, foreground="white")


@dataclass(frozen=True)
class Cloud:
    """Points (N, 2) of one source, and their labels (N,), -1 where there is none."""

    points: np.ndarray
    labels: np.ndarray


def class_map(
    cloud: Cloud, class_names: Sequence[str], axes_names: Sequence[str], path: Path, title: str, ticks: bool = True
) -> None:
    """Draw points in the colours of their classes, each named in its midst. ticks: the axes' numbers mean something."""
    with drawing((7.0, 6.2), path, title) as figure:
        axes = figure.subplots()
        _scatter_classes(axes, cloud, len(class_names), float(np.clip(8000 / len(cloud.points), 4, 20)), "o")
        _name_classes(axes, cloud, class_names)
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
        if not ticks:
            axes.set(xticks=[], yticks=[])


def map_figure(
    real: Cloud,
    generated: Cloud,
    class_names: Sequence[str],
    axes_names: Sequence[str],
    notes: str,
    path: Path,
    title: str,
) -> None:
    """Draw one map of two sets of images twice, by class and by source, with notes beside it."""
    with new_figure(MAP_INCHES, title) as figure:
        _draw_map(figure, real, generated, class_names, axes_names, notes)
        save_figure(figure, path)


def map_picture(
    real: Cloud, generated: Cloud, class_names: Sequence[str], axes_names: Sequence[str], notes: str, title: str
) -> Image.Image:
    """The same as a frame of an animation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with new_figure(MAP_INCHES, title) as figure:
        figure.set_dpi(90)
        canvas = FigureCanvasAgg(figure)
        _draw_map(figure, real, generated, class_names, axes_names, notes)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())


MAP_INCHES = (11.0, 4.9)


def _draw_map(
    figure: Figure, real: Cloud, generated: Cloud, class_names: Sequence[str], axes_names: Sequence[str], notes: str
) -> None:
    by_class, by_source, beside = figure.subplots(1, 3, width_ratios=(4, 4, 1.7))
    everything = np.concatenate([real.points, generated.points])
    size = float(np.clip(4000 / len(everything), 3, 14))
    for cloud, marker in ((real, "o"), (generated, "^")):
        _scatter_classes(by_class, cloud, len(class_names), size, marker)
    _name_classes(by_class, real, class_names)
    by_class.set_title("by class  (● real, ▲ generated)")
    order = np.random.default_rng(0).permutation(len(everything))  # neither source hides the other
    source = np.array([COLOURS[0]] * len(real.points) + [COLOURS[1]] * len(generated.points))
    by_source.scatter(*everything[order].T, s=size, c=source[order].tolist(), linewidths=0, alpha=0.6)
    by_source.set_title("by source")
    for colour, name in zip(COLOURS, ("real", "generated"), strict=False):
        by_source.scatter([], [], s=20, c=colour, label=name)
    by_source.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    span = _limits(real.points)
    for axes in (by_class, by_source):
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1], xticks=[], yticks=[], xlim=span[0], ylim=span[1])
    beside.axis("off")
    beside.text(0, 1, notes, va="top", fontsize=8.5, linespacing=1.5, transform=beside.transAxes)


def _limits(points: np.ndarray) -> list[tuple[float, float]]:
    """Of both axes: around the real points, with room for others; the same in every frame of an animation."""
    low, high = points.min(0), points.max(0)
    room = 0.08 * (high - low)
    return [(float(a), float(b)) for a, b in zip(low - room, high + room, strict=True)]


def _scatter_classes(axes: Axes, cloud: Cloud, classes: int, size: float, marker: str) -> None:
    colours = _class_colours(classes)
    own = [colours[label] if label >= 0 else NO_CLASS for label in cloud.labels]
    axes.scatter(*cloud.points.T, s=size, c=own, marker=marker, linewidths=0, alpha=0.75)


def _class_colours(count: int) -> list[tuple[float, float, float, float]]:
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](index) for index in range(10)]
    return [colormaps["nipy_spectral"](0.05 + 0.9 * index / (count - 1)) for index in range(count)]


def _name_classes(axes: Axes, real: Cloud, class_names: Sequence[str]) -> None:
    """Each name at the middle of its real points."""
    for label, name in enumerate(class_names):
        members = real.points[real.labels == label]
        if len(members):
            x, y = np.median(members, axis=0)
            axes.text(x, y, name, ha="center", va="center", weight="bold", path_effects=[_halo()])
