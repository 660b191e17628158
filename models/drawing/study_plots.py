"""Plots of studies: each measure by setting, with the values of all seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.drawing.axes import WIDE, scale_axis
from models.drawing.figure_files import COLOURS, STYLES, figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST = 3  # If an axis of the study has at least this many values, all numbers, a measure is drawn as a curve.


class StudyPanel(NamedTuple):
    """A measure of a study's cells. values: (cells, seeds), NaN where a cell failed. means, differs: one per cell.

    differs: whether the cell was found to differ from the first cell, the reference. intervals: (cells, 2), 95 %
    intervals of the differences, added to the reference's mean (ratios multiply it); NaN for none. floor: value of real
    images. ratio: whether values are compared by their ratios. If so, a wide range is drawn on a logarithmic axis.
    """

    heading: str
    values: NDArray[np.float64]
    means: NDArray[np.float64]
    differs: Sequence[bool]
    intervals: NDArray[np.float64]
    floor: float | None
    ratio: bool


def draw_study(labels: Sequence[Mapping[str, str]], panels: Sequence[StudyPanel], path: Path | str, title: str) -> None:
    """Draw one panel per measure, in a .png, .pdf or .svg file: up to three side by side, more in rows of two.

    labels: for each cell, its value on each axis of the study. If an axis has at least three values, all numbers, the
    measure is a curve over them, with a line for each combination of values of the other axes. Without such an axis,
    each cell has a row.
    """
    axis = _numeric_axis(labels)
    columns = len(panels) if len(panels) <= 3 else 2
    rows = math.ceil(len(panels) / columns)
    width, height = (3.4, 3.0) if axis else (2.9, 0.6 + 0.25 * len(labels))
    with figure_file((2 + width * columns, 0.8 + height * rows), path, title) as figure:
        subplots = figure.subplots(rows, columns, squeeze=False, sharey=not axis)
        if not axis:
            names = (name.removeprefix("sampling.").replace("_", " ") for name in labels[0])
            figure.supylabel(",\n".join(names))
        for axes in subplots.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(subplots.flat, panels, strict=False):
            _draw_curves(axes, panel, labels, axis) if axis else _draw_rows(axes, panel, labels)
        handles = {str(line.get_label()): line for axes in subplots.flat for line in axes.lines}
        handles = {label: line for label, line in handles.items() if not label.startswith("_")}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, fontsize=8)


def _numeric_axis(labels: Sequence[Mapping[str, str]]) -> str | None:
    """Return the first axis with at least FEWEST values that are all numbers, if there is one."""
    for axis in labels[0]:
        values = {row[axis] for row in labels}
        if len(values) >= FEWEST and all(_is_number(value) for value in values):
            return axis
    return None


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _draw_curves(axes: Axes, panel: StudyPanel, labels: Sequence[Mapping[str, str]], axis: str) -> None:
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(labels):
        others = ", ".join(f"{name} {value}" for name, value in row.items() if name != axis)
        groups.setdefault(others or "mean over seeds", []).append(index)
    x = np.array([float(row[axis]) for row in labels])
    for number, (name, rows) in enumerate(groups.items()):
        rows = sorted(rows, key=lambda index: x[index])
        colour, style = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
        for seed in panel.values[rows].T:
            axes.plot(x[rows], seed, "o", color=colour, alpha=0.35, markersize=3)
        axes.plot(x[rows], panel.means[rows], color=colour, linestyle=style, label=name)
        axes.vlines(x[rows], *panel.intervals[rows].T, color=colour, linewidth=1)
    _explain_intervals(axes, axes.axhline, panel)
    _draw_floor(axes.axhline, panel)
    positive = x[x > 0]
    if len(positive) == len(x) and x.max() > WIDE * x.min():
        axes.set_xscale("log")
    axes.set_xticks(sorted(set(x)), labels=[f"{value:g}" for value in sorted(set(x))], minor=False)
    axes.minorticks_off()
    axes.set(title=panel.heading, xlabel=axis.replace("_", " "))
    if panel.ratio:
        scale_axis(axes, panel.values)


def _draw_rows(axes: Axes, panel: StudyPanel, labels: Sequence[Mapping[str, str]]) -> None:
    positions = np.arange(len(labels))
    for seed in panel.values.T:
        axes.plot(seed, positions, "o", color="0.6", markersize=3, label="one seed")
    compared = np.isfinite(panel.intervals).any()
    looks = [(False, "mean, no difference found" if compared else "mean, not compared", COLOURS[0])]
    looks += [(True, "mean, differs", COLOURS[1])] if compared else []
    for differs, label, colour in looks:
        rows = [index for index in range(len(labels)) if panel.differs[index] == differs]
        axes.plot(panel.means[rows], rows, "D", color=colour, markersize=5, label=label)
        for row in rows:
            axes.plot(panel.intervals[row], (row, row), color=colour, linewidth=1.5)
    _explain_intervals(axes, axes.axvline, panel)
    _draw_floor(axes.axvline, panel)
    names = [", ".join(row.values()) or "the only cell" for row in labels]
    axes.set_yticks(positions, labels=[f"{names[0]} (reference)", *names[1:]])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_title(panel.heading)
    if panel.ratio:
        scale_axis(axes, panel.values, "x")


def _explain_intervals(axes: Axes, draw: Callable[..., Any], panel: StudyPanel) -> None:
    """Draw the reference's mean, which the interval of a cell that differs does not contain."""
    if np.isfinite(panel.intervals).any():
        draw(panel.means[0], color="0.6", linestyle=":", linewidth=1, label="mean of the reference")
        axes.plot([], [], color=COLOURS[0], linewidth=1.5, label="95 % interval of the difference")


def _draw_floor(draw: Callable[..., Any], panel: StudyPanel) -> None:
    if panel.floor is not None:
        draw(panel.floor, color="0.35", linestyle="--", linewidth=1, label="real test images")
