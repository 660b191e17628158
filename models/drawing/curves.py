"""Curves of measurements: checkpoints over training, guidance scales, noise schedules.

Each function writes a .png, .pdf or .svg file atomically. It raises UserError for another suffix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from models.drawing.axes import fade, label_steps, marker, multiples, read_column, scale_axis
from models.drawing.figure_files import COLOURS, STYLES, figure_file, outline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Value of the column `weights`, label, colour and line style of each checkpoint curve.
WEIGHTS = (("raw", "raw weights", COLOURS[0], "-"), ("ema", "EMA weights", COLOURS[1], "-."))
CLOSEST = 0.06  # Share of the x axis. Only the first of several guidance scales within this distance is labelled.
CLOSE = 0.09, 0.05  # Shares of the x and y axes. If labelled points are closer than both, every second label is above.
LOG_SNR_SHOWN = 20.0  # At 20, sigma is alpha / 22,000. At -20, alpha is sigma / 22,000. Beyond, curves are cut off.


class Panel(NamedTuple):
    """A measure of checkpoints. floor: its value for real images. percent: whether it is a share, shown in percent."""

    column: str
    heading: str
    floor: float | None = None
    percent: bool = False


def draw_checkpoint_curves(
    rows: Sequence[Mapping[str, Any]], panels: Sequence[Panel], path: Path | str, title: str = ""
) -> None:
    """Draw each measure over the steps, with its interval, for raw and for EMA weights.

    rows: one per checkpoint and kind of weights. Keys: step, epoch and weights; for each panel, its column alone and
    with the endings _low and _high.
    """
    with figure_file((1 + 3.6 * len(panels), 3.9), path, title) as figure:
        subplots = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(subplots, panels, strict=True):
            _draw_measure(axes, rows, panel)
        handles = {str(line.get_label()): line for axes in subplots for line in axes.lines}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), fontsize=8)


def _draw_measure(axes: Axes, rows: Sequence[Mapping[str, Any]], panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    factor = 100 if panel.percent else 1
    drawn = []
    for weights, label, colour, style in WEIGHTS:
        of_weights = [row for row in rows if row["weights"] == weights]
        if not of_weights:
            continue
        steps = read_column(of_weights, "step")
        value, low, high = (factor * read_column(of_weights, f"{panel.column}{end}") for end in ("", "_low", "_high"))
        axes.plot(steps, value, color=colour, linestyle=style, marker=marker(steps), markersize=3, label=label)
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        drawn.append(value)
    if panel.floor is not None:
        axes.axhline(factor * panel.floor, color="0.35", linestyle="--", linewidth=1, label="real test images")
        drawn.append(np.array([factor * panel.floor]))
    axes.set(title=panel.heading, xlabel="step (below) and epoch (above)")
    if not panel.percent:
        scale_axis(axes, np.concatenate(drawn))
    label_steps(axes, 5)
    per_step = float(rows[-1]["epoch"]) / float(rows[-1]["step"])
    top = axes.secondary_xaxis("top", functions=multiples(per_step))
    top.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    fade(top)


def draw_guidance_curves(
    rows: Sequence[Mapping[str, float]], classifier_accuracy: float, path: Path | str, title: str
) -> None:
    """Draw accuracy, with its interval, and diversity against the guidance scale.

    rows: one per scale. Keys: scale, accuracy, accuracy_low, accuracy_high, diversity (relative to real images).
    """
    rows = sorted(rows, key=lambda row: row["scale"])
    names = ("scale", "accuracy", "accuracy_low", "accuracy_high", "diversity")
    scale, accuracy, low, high, diversity = (np.array([row[name] for row in rows]) for name in names)
    with figure_file((9.0, 3.9), path, title) as figure:
        left, right = figure.subplots(1, 2)
        left.fill_between(scale, 100 * low, 100 * high, color=COLOURS[0], alpha=0.15, linewidth=0)
        left.plot(scale, 100 * accuracy, "o-", color=COLOURS[0], markersize=4, label="generated, 95 % interval")
        left.axhline(100 * classifier_accuracy, color="0.35", linestyle="--", linewidth=1, label="real test images")
        left.set(title="recognised as the requested class", ylabel="% of images")
        right.plot(scale, diversity, "s-", color=COLOURS[1], markersize=4, label="generated")
        right.axhline(1, color="0.35", linestyle="--", linewidth=1, label="real test images")
        right.set(title="diversity: mean pairwise distance within a class", ylabel="ratio to real images")
        right.set_ylim(0, max(1.1, 1.08 * diversity.max()))
        for axes, values, form in ((left, 100 * accuracy, "{:.1f}"), (right, diversity, "{:.2f}")):
            axes.set(xlabel="guidance scale  (0 = unconditional, 1 = conditional)")
            _mark_scales(axes, scale, [form.format(value) for value in values], values)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, fontsize=8)


def _mark_scales(axes: Axes, scale: np.ndarray, texts: Sequence[str], values: np.ndarray) -> None:
    """Write each value at its point, unless the text would overlap others. If all fit, the ticks are the scales."""
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 7.5}
    width, height = float(np.ptp(scale) or 1), float(np.ptp(axes.get_ylim()))
    last, last_y, is_above = -np.inf, 0.0, False
    labelled = []
    for x, y, text in zip(scale.tolist(), values.tolist(), texts, strict=True):
        if x - last >= CLOSEST * width:
            is_above = not is_above and x - last < CLOSE[0] * width and abs(y - last_y) < CLOSE[1] * height
            axes.annotate(text, (x, y), xytext=(0, 6 if is_above else -13), **style, path_effects=[outline()])
            labelled.append(x)
            last, last_y = x, y
    if len(labelled) == len(scale):
        axes.set_xticks(labelled, [f"{value:g}" for value in labelled])


def draw_schedule_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], path: Path | str, title: str = ""
) -> None:
    """Draw alpha(t), sigma(t) and the log-SNR of noise schedules, side by side.

    curves: for each name, arrays of one length: t in [0, 1], alpha, sigma, and the log-SNR, which may be infinite.
    """
    headings = (r"signal  $\alpha(t)$", r"noise  $\sigma(t)$", r"log-SNR  $\log(\alpha^2 / \sigma^2)$")
    with figure_file((9.0, 3.8), path, title) as figure:
        panels = figure.subplots(1, 3)
        for k, (axes, heading) in enumerate(zip(panels, headings, strict=True)):
            axes.set(title=heading, xlabel="t  (0 = clean, 1 = noise)", xlim=(-0.02, 1.02))
            for n, (t, *values) in enumerate(curves.values()):
                finite = np.isfinite(values[k])
                width = 2.6 - 1.6 * n / len(curves)  # Later curves are thinner, so equal earlier ones stay visible.
                look: dict[str, Any] = {"color": COLOURS[n % len(COLOURS)], "linestyle": STYLES[n % len(STYLES)]}
                axes.plot(t[finite], values[k][finite], **look, linewidth=width, marker=marker(t), markersize=3)
        shown = [line.get_ydata().clip(-LOG_SNR_SHOWN, LOG_SNR_SHOWN) for line in panels[2].lines]
        low, high = np.min(np.concatenate(shown)), np.max(np.concatenate(shown))
        panels[2].set_ylim(low - 1, high + 1)
        columns = min(5, len(curves))
        figure.legend(panels[0].lines, list(curves), loc="outside lower center", ncols=columns, handlelength=4)
