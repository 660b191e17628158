"""Loss curves of a training run, over the steps and over t.

Each function writes a .png, .pdf or .svg file atomically. It raises UserError for another suffix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.drawing.axes import (
    fade,
    label_plainly,
    label_steps,
    marker,
    multiples,
    put_legend_below,
    read_column,
    scale_axis,
)
from models.drawing.figure_files import COLOURS, STYLES, figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CENTRES = (np.arange(10) + 0.5) / 10  # Centres of the ten bins of t, columns test_loss_t0 ... test_loss_t9.
T_AXIS: dict[str, Any] = {"xlabel": "t  (0 = clean, 1 = noise)", "ylabel": "loss", "xlim": (0, 1)}
# Column, label, colour and line style of each curve.
LOSSES = (
    ("train_loss", "train, raw weights", COLOURS[0], "-"),
    ("train_grid_loss", "train, EMA weights", COLOURS[2], "-."),
    ("test_loss", "test, EMA weights", COLOURS[1], "--"),
)
SAMPLES = {
    "sample_distance": "distance of samples, EMA weights",
    "sample_recognised": "recognised samples, %, EMA weights",
}
PARTS = {"reconstruction": "reconstruction, per pixel", "kl": "KL, nats per image"}
MANY = 200  # With at least this many points, a curve is drawn faint, with its running mean on top.


def draw_loss_curves(rows: Sequence[Mapping[str, Any]], path: Path | str, title: str = "") -> None:
    """Draw train and test loss over the steps, and the test loss by t at the first and the last evaluation.

    For a student with classes, the test loss is drawn by class instead of by t. Each measure of samples, and each part
    of an autoencoder's loss, has its own panel. rows: rows of metrics.csv; cells may be missing.
    """
    if any("test_loss_reconstruction" in row for row in rows):
        _draw_autoencoder_curves(rows, path, title)
        return
    columns = [column for column in SAMPLES if np.isfinite(read_column(rows, column)).any()]
    panels: list[Callable[[Axes, Sequence[Mapping[str, Any]]], None]] = []
    if any("test_loss_class0" in row for row in rows):
        panels = [_draw_by_class]
    elif any("test_loss_t0" in row for row in rows) or not np.isfinite(read_column(rows, "test_loss")).any():
        panels = [_draw_by_time]
    width = 9.0 if panels else 5.4
    panels += [partial(_draw_samples, column=column) for column in columns]
    with figure_file((width + 2.8 * len(columns), 3.9), path, title) as figure:
        widths = (3, *[2 for _ in panels])
        over_steps, *others = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        if _draw_over_steps(over_steps, rows, LOSSES, "loss by step"):
            put_legend_below(over_steps)
        for axes, draw in zip(others, panels, strict=True):
            draw(axes, rows)


def draw_losses_by_t(curves: Mapping[str, Sequence[Sequence[float]]], path: Path | str, title: str = "") -> None:
    """Draw losses in ten bins of t. curves: for each name, (mean, low, high) of each bin, NaN if the bin is empty."""
    with figure_file((6.0, 4.0), path, title) as figure:
        axes = figure.subplots()
        axes.set(**T_AXIS, xticks=np.linspace(0, 1, 6))
        for n, (name, bins) in enumerate(curves.items()):
            mean, low, high = np.asarray(bins, dtype=np.float64).T
            axes.plot(CENTRES, mean, "o", color=COLOURS[n], linestyle=STYLES[n], markersize=3, label=name)
            axes.fill_between(CENTRES, low, high, color=COLOURS[n], alpha=0.2, linewidth=0)
        scale_axis(axes, np.array(list(curves.values()))[:, :, 0])
        put_legend_below(axes)


def _draw_autoencoder_curves(rows: Sequence[Mapping[str, Any]], path: Path | str, title: str) -> None:
    headings = {name: heading for name, heading in PARTS.items() if any(f"test_loss_{name}" in row for row in rows)}
    with figure_file((1 + 3.4 * (1 + len(headings)), 3.9), path, title) as figure:
        loss, *panels = figure.subplots(1, 1 + len(headings))
        if not _draw_over_steps(loss, rows, LOSSES, "loss by step"):
            return
        for axes, (name, heading) in zip(panels, headings.items(), strict=True):
            curves = [(f"{column}_{name}", *look) for column, *look in LOSSES if column != "train_grid_loss"]
            _draw_over_steps(axes, rows, curves, heading)
        figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=len(LOSSES), fontsize=8)
        if "kl" in headings:
            _add_rate_axis(panels[-1], read_column(rows, "test_loss_kl"), read_column(rows, "test_loss_rate"))


def _add_rate_axis(axes: Axes, kl: np.ndarray, rate: np.ndarray) -> None:
    """Add a second y axis on the right, which shows the KL as a rate in bits per dimension."""
    positive = (kl > 0) & (rate > 0)
    if not positive.any():
        return
    factor = float(rate[positive][-1] / kl[positive][-1])
    right = axes.secondary_yaxis("right", functions=multiples(factor))
    right.set_ylabel("bits per dimension")
    if axes.get_yscale() == "log":
        label_plainly(right.yaxis, axes.get_ylim()[0] * factor, axes.get_ylim()[1] * factor)


def _draw_over_steps(
    axes: Axes, rows: Sequence[Mapping[str, Any]], curves: Sequence[Sequence[str]], heading: str
) -> bool:
    """Draw curves (column, label, colour, style) over the steps. Return False if there is nothing to draw."""
    axes.set(title=heading, xlabel="step")
    steps = read_column(rows, "step")
    drawn = []
    for name, label, colour, style in curves:
        values = read_column(rows, name)
        finite = np.isfinite(steps) & np.isfinite(values)
        x, y = steps[finite], values[finite]
        if not len(x):
            continue
        drawn.append(y)
        if len(x) >= MANY:
            axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.3, rasterized=True)
            y = _running_mean(y, len(y) // 50)
        axes.plot(x, y, color=colour, linestyle=style, marker=marker(x), markersize=3, label=label)
    if not drawn:
        _write_notice(axes, "no losses yet")
        return False
    scale_axis(axes, np.concatenate(drawn))
    label_steps(axes, 6)
    _add_epoch_axis(axes, steps, read_column(rows, "epoch"))
    return True


def _add_epoch_axis(axes: Axes, steps: np.ndarray, epochs: np.ndarray) -> None:
    """Add a second x axis at the top, which shows epochs. Epochs are interpolated between rows; step 0 is epoch 0."""
    from matplotlib.ticker import MaxNLocator

    finite = np.isfinite(steps) & np.isfinite(epochs)
    steps, epochs = np.append(0, steps[finite]), np.append(0, epochs[finite])
    low, high = np.interp(axes.get_xlim(), steps, epochs)
    if high - low < 2:
        return
    ticks = np.asarray(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]).tick_values(low, high))
    ticks = ticks[(low <= ticks) & (ticks <= high) & (ticks > 0)]
    top = axes.secondary_xaxis("top")
    top.set_xticks(np.interp(ticks, epochs, steps), [f"{tick:,.0f}" for tick in ticks])
    fade(top)
    axes.set_title(axes.get_title().replace("by step", "by step (below) and epoch (above)"))


def _draw_samples(axes: Axes, rows: Sequence[Mapping[str, Any]], column: str) -> None:
    if column == "sample_recognised":
        rows = [{**row, column: 100 * share} for row, share in zip(rows, read_column(rows, column), strict=True)]
    _draw_over_steps(axes, rows, [(column, "", COLOURS[1], "-")], SAMPLES[column])
    if column == "sample_recognised":
        axes.set(yscale="linear", ylim=(0, 103))


def _draw_by_time(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    axes.set(title="test loss by t, EMA weights", **T_AXIS)
    steps = read_column(rows, "step")
    bins = np.stack([read_column(rows, f"test_loss_t{k}") for k in range(len(CENTRES))], axis=1)  # (rows, 10)
    evaluated = np.flatnonzero(np.isfinite(bins).any(axis=1) & np.isfinite(steps))
    if not len(evaluated):
        _write_notice(axes, "no evaluation yet")
        return
    first, last = evaluated[0], evaluated[-1]
    if first != last:
        axes.plot(CENTRES, bins[first], "s:", color="0.45", markersize=3, label=f"step {steps[first]:,.0f}")
    axes.plot(CENTRES, bins[last], "o-", color=COLOURS[1], markersize=3, label=f"step {steps[last]:,.0f}")
    scale_axis(axes, bins[[first, last]])
    axes.set_xticks(np.linspace(0, 1, 6))
    put_legend_below(axes)


def _draw_by_class(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the last test loss of a student, with one bar for each class."""
    axes.set(title="test loss by class, EMA weights", xlabel="class", ylabel="loss")
    columns = sorted({c for row in rows for c in row if c.startswith("test_loss_class")}, key=lambda c: int(c[15:]))
    by_class = np.stack([read_column(rows, column) for column in columns], axis=1)  # (rows, classes)
    evaluated = np.flatnonzero(np.isfinite(by_class).any(axis=1))
    if not len(evaluated):
        _write_notice(axes, "no evaluation yet")
        return
    axes.bar(np.arange(len(columns)), by_class[evaluated[-1]], color=COLOURS[1])
    if len(columns) <= 12:
        axes.set_xticks(np.arange(len(columns)))


def _write_notice(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.35")
    axes.set(xticks=[], yticks=[])


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of the `width` values around each value, or of fewer at the ends."""
    ones = np.ones(width)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")
