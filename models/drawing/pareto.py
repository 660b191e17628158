"""Pareto picture: the distance between generated and real images against the cost of an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from models.drawing.axes import label_plainly
from models.drawing.figure_files import COLOURS, figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# For each column of panels: the field of a point, and the title of the x axis.
COSTS = (("evaluations", "evaluations of the network per image"), ("seconds", "seconds per image"))
MARKERS = "osDv^P<X>p"
PALE = 0.3  # Opacity of dominated points, and of the lines.


class ParetoPoint(NamedTuple):
    """A way to generate images, with its costs per image and its measured distance.

    label: sampler or student; a line joins points with the same label. group: row of panels, such as the guidance
    scale. value, low, high: the distance and its interval. floor: the distance of real images, > 0.
    student: the point is drawn as a star.
    """

    label: str
    group: str
    evaluations: float
    seconds: float
    value: float
    low: float
    high: float
    floor: float
    student: bool = False


def draw_pareto(rows: Sequence[ParetoPoint], path: Path, title: str, measure: str) -> None:
    """Draw the distance divided by its floor, against evaluations and seconds, with one row of panels per group.

    A point is dominated if another point of its panel is no worse in both cost and distance, and better in one of them.
    Dominated points are pale. measure: name of the distance. Raises UserError as `figure_file` does.
    """
    groups = list(dict.fromkeys(point.group for point in rows))
    looks = _looks(rows)
    with figure_file((9.0, 0.9 + 3.6 * len(groups)), path, title) as figure:
        panels = figure.subplots(len(groups), len(COSTS), squeeze=False, sharex="col", sharey=True)
        for group, row in zip(groups, panels, strict=True):
            points = [point for point in rows if point.group == group]
            for axes, (cost, heading) in zip(row, COSTS, strict=True):
                _draw_panel(axes, points, cost, looks)
                axes.set(title=group, xlabel=heading)
            row[0].set_ylabel(f"{measure}, times the floor")
        _scale_axes(panels, rows)
        handles = [_handle(looks[label]) for label in looks]
        legend = figure.legend(
            [*handles, *panels[0, 0].lines[:1]],
            [*looks, "real images"],
            loc="outside lower center",
            ncols=min(5, len(looks) + 1),
            fontsize=8,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # A name may contain two dollar signs.


def undominated(costs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return a boolean per point: False if another point is no worse in cost and value, and better in one of them."""
    no_worse = (costs[:, None] <= costs) & (values[:, None] <= values)  # (N, N): entry i, j compares i with j
    better = (costs[:, None] < costs) | (values[:, None] < values)
    return np.logical_not(np.any(no_worse & better, axis=0))


def _draw_panel(axes: Axes, points: Sequence[ParetoPoint], cost: str, looks: dict[str, dict[str, Any]]) -> None:
    axes.axhline(1, color="0.35", linestyle="--", linewidth=1)
    costs = np.array([getattr(point, cost) for point in points])
    ratios = np.array([(point.value, point.low, point.high) for point in points])
    ratios /= np.array([[point.floor] for point in points])
    best = undominated(costs, ratios[:, 0])
    for label, look in looks.items():
        chosen = np.flatnonzero([point.label == label for point in points])
        chosen = chosen[np.argsort(costs[chosen], kind="stable")]
        axes.plot(costs[chosen], ratios[chosen, 0], color=look["color"], linewidth=1.2, alpha=PALE)
        for k in chosen:
            value, low, high = ratios[k]
            spread = [[max(0.0, value - low)], [max(0.0, high - value)]]
            style = look | {"alpha": 1.0 if best[k] else PALE, "zorder": 4 if best[k] else 3}
            axes.errorbar(costs[k], value, spread, **style, elinewidth=1, linestyle="")


def _looks(rows: Sequence[ParetoPoint]) -> dict[str, dict[str, Any]]:
    """Return colour and marker of each label. Students are stars."""
    looks: dict[str, dict[str, Any]] = {}
    for point in rows:
        k = len(looks)
        shape: dict[str, Any] = {"marker": MARKERS[k % len(MARKERS)], "markersize": 5}
        if point.student:
            shape = {"marker": "*", "markersize": 11}
        look = {"color": COLOURS[k % len(COLOURS)], "markeredgewidth": 0, **shape}
        looks.setdefault(point.label, look)
    return looks


def _handle(look: dict[str, Any]) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linewidth=1.2, **look)


def _scale_axes(panels: np.ndarray, rows: Sequence[ParetoPoint]) -> None:
    """Make all axes logarithmic, with plain numbers. Only the outer axes have labels."""
    ratios = [point.value / point.floor for point in rows]
    for axes in panels.flat:
        axes.set(xscale="log", yscale="log")
        axes.label_outer()
    label_plainly(panels[0, 0].yaxis, min(1, *ratios), max(1, *ratios))
    for axes, (cost, _) in zip(panels[0], COSTS, strict=True):
        costs = [getattr(point, cost) for point in rows]
        label_plainly(axes.xaxis, min(costs), max(costs))
