"""Curves for people: losses by step and by t, measures of checkpoints, noise schedules; and how figures are written.

Matplotlib is imported when something is drawn, never before, and without pyplot: no window, no global state,
nothing to close. What the numbers mean is the caller's; images are drawn by `pictures`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from models.errors import UserError
from models.runs.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = {".png": "png", ".pdf": "pdf", ".svg": "svg"}
TIME_BINS = 10  # Columns test_loss_t0 ... test_loss_t9: the loss in ten equal bins of t.
# Okabe and Ito's colours, which colour-blind readers tell apart; line styles tell the curves apart in print.
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
    "svg.hashsalt": "",  # Names inside a file that are drawn by lot without it.
}
LOSSES = (
    ("train_loss", "train, raw weights", COLOURS[0], "-"),
    ("train_grid_loss", "train, EMA weights", COLOURS[2], "-."),
    ("test_loss", "test, EMA weights", COLOURS[1], "--"),
)
WEIGHTS = (("raw", "raw weights", COLOURS[0], "-"), ("ema", "EMA weights", COLOURS[1], "-."))
SAMPLES = {"sample_distance": "distance of samples, EMA weights", "sample_recognised": "recognised, %, EMA weights"}
PARTS = {"reconstruction": "reconstruction, per pixel", "kl": "KL, nats per image"}
FEW, MANY = 30, 200  # Up to FEW points are marked; from MANY on a curve is faint, its running mean on top.
WIDE = 5.0  # Ratio of the largest to the smallest loss from which the axis is logarithmic.
LOG_SNR_SHOWN = 20.0  # Beyond it float32 holds nothing of the noise, or of the image.


def loss_curves(rows: Sequence[Mapping[str, Any]], path: Path | str, title: str = "") -> None:
    """Draw train and test loss over the steps; beside it the test loss by t at the first and the last evaluation and,
    where samples were measured, what came of it; or an autoencoder's reconstruction and KL over the steps.

    rows: as read from metrics.csv, numbers or text, any cell absent, empty or not finite: step, epoch, train_loss,
    train_grid_loss, test_loss; test_loss_t0 ... test_loss_t9, sample_distance and sample_recognised (a share), or of
    both splits train_loss_reconstruction, train_loss_kl and test_loss_rate. Writes .png, .pdf or .svg, whole or not at
    all; raises UserError for another suffix.
    """
    if any("test_loss_reconstruction" in row for row in rows):
        _autoencoder_curves(rows, path, title)
        return
    beside = [column for column in SAMPLES if np.isfinite(_column(rows, column)).any()]
    with drawing((9.0 + 2.8 * len(beside), 3.9), path, title) as figure:
        over_steps, by_time, *panels = figure.subplots(1, 2 + len(beside), width_ratios=(3, 2, *[2 for _ in beside]))
        if _draw_losses(over_steps, rows, LOSSES, "loss by step"):
            _legend(over_steps)
        _draw_by_time(by_time, rows)
        for axes, column in zip(panels, beside, strict=True):
            _draw_samples(axes, rows, column)


class Panel(NamedTuple):
    """One measure of checkpoints. column: of the rows. floor: what real images get. percent: it is a share."""

    column: str
    heading: str
    floor: float | None = None
    percent: bool = False


def checkpoint_curves(
    rows: Sequence[Mapping[str, Any]], panels: Sequence[Panel], path: Path | str, title: str = ""
) -> None:
    """Draw each measure over the steps, raw and EMA weights apart, with the bands of their intervals.

    rows: one for each checkpoint and its weights, raw or ema: step, epoch, weights, and for each panel column,
    column_low, column_high. Writes .png, .pdf or .svg, whole or not at all; raises UserError for another suffix.
    """
    with drawing((1 + 3.6 * len(panels), 3.9), path, title) as figure:
        every = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(every, panels, strict=True):
            _draw_measure(axes, rows, panel)
        handles = {str(line.get_label()): line for axes in every for line in axes.lines}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), fontsize=8)


def losses_by_t(curves: Mapping[str, Sequence[Sequence[float]]], path: Path | str, title: str = "") -> None:
    """Draw losses in ten bins of t, each with the band of its interval.

    curves: by name, (mean, low, high) of each bin, NaN where it is empty. Writes .png, .pdf or .svg, whole or not at
    all; raises UserError for another suffix.
    """
    with drawing((6.0, 4.0), path, title) as figure:
        axes = figure.subplots()
        axes.set(xlabel="t  (0 = clean, 1 = noise)", ylabel="loss", xlim=(0, 1), xticks=np.linspace(0, 1, 6))
        centres = (np.arange(TIME_BINS) + 0.5) / TIME_BINS
        for n, (name, bins) in enumerate(curves.items()):
            mean, low, high = np.asarray(bins, dtype=np.float64).T
            axes.plot(centres, mean, "o", color=COLOURS[n], linestyle=STYLES[n], markersize=3, label=name)
            axes.fill_between(centres, low, high, color=COLOURS[n], alpha=0.2, linewidth=0)
        _scale(axes, np.array(list(curves.values()))[:, :, 0])
        _legend(axes)


def schedule_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    path: Path | str,
    title: str = "",
) -> None:
    """Draw alpha(t), sigma(t) and the log-SNR of noise schedules, side by side.

    curves: by name, four arrays of one length: t in [0, 1], alpha, sigma, and log(alpha^2 / sigma^2), which
    may be infinite. Writes .png, .pdf or .svg, whole or not at all; raises UserError for another suffix.
    """
    headings = (r"signal  $\alpha(t)$", r"noise  $\sigma(t)$", r"log-SNR  $\log(\alpha^2 / \sigma^2)$")
    with drawing((9.0, 3.8), path, title) as figure:
        panels = figure.subplots(1, 3)
        for k, (axes, heading) in enumerate(zip(panels, headings, strict=True)):
            axes.set(title=heading, xlabel="t  (0 = clean, 1 = noise)", xlim=(-0.02, 1.02))
            for n, (t, *values) in enumerate(curves.values()):
                finite = np.isfinite(values[k])
                axes.plot(
                    t[finite],
                    values[k][finite],
                    color=COLOURS[n % len(COLOURS)],
                    linestyle=STYLES[n % len(STYLES)],
                    linewidth=2.6 - 1.6 * n / len(curves),  # A later curve does not hide an equal one.
                    marker=_marker(t),
                    markersize=3,
                )
        shown = [line.get_ydata().clip(-LOG_SNR_SHOWN, LOG_SNR_SHOWN) for line in panels[2].lines]
        low, high = np.min(np.concatenate(shown)), np.max(np.concatenate(shown))
        panels[2].set_ylim(low - 1, high + 1)
        figure.legend(
            panels[0].lines,
            list(curves),
            loc="outside lower center",
            ncols=min(5, len(curves)),
            handlelength=4,
        )


@contextmanager
def drawing(inches: tuple[float, float], path: Path | str, title: str) -> Iterator[Figure]:
    """A figure with a title and nothing else, written to `path` when the block ends well."""
    with new_figure(inches, title) as figure:
        if Path(path).suffix.lower() not in FORMATS:
            raise UserError(f"{path}: the name must end in one of {', '.join(FORMATS)}")
        yield figure
        save_figure(figure, path)


@contextmanager
def new_figure(inches: tuple[float, float], title: str) -> Iterator[Figure]:
    """A figure with a title; what is drawn in the block has the look of all figures."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=inches, dpi=150, layout="constrained")
        if title:
            wrapped = "\n".join(textwrap.fill(line, round(13 * inches[0])) for line in title.splitlines())
            # A run's name may hold two dollar signs and yet be no formula.
            figure.suptitle(wrapped, x=0.01, ha="left", fontsize=10, parse_math=False)
        yield figure


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write a figure, whole or not at all; the same figure gives the same bytes on any day."""
    file_format = FORMATS[Path(path).suffix.lower()]
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(file_format)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=file_format, metadata=undated)


def save_raster(pixels: np.ndarray, path: Path | str) -> None:
    """Write (H, W) or (H, W, 3) uint8 pixels, as they are, as the one picture of a .pdf or .svg page."""
    import matplotlib
    from matplotlib.figure import Figure

    height, width = pixels.shape[:2]
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(width / 100, height / 100), dpi=100)
        figure.figimage(pixels, cmap="gray", vmin=0, vmax=255)
        save_figure(figure, path)


def _autoencoder_curves(rows: Sequence[Mapping[str, Any]], path: Path | str, title: str) -> None:
    """Loss, reconstruction and, for a VAE, KL, each over the steps."""
    headings = {name: text for name, text in PARTS.items() if any(f"test_loss_{name}" in row for row in rows)}
    with drawing((1 + 3.4 * (1 + len(headings)), 3.9), path, title) as figure:
        loss, *parts = figure.subplots(1, 1 + len(headings))
        if not _draw_losses(loss, rows, LOSSES, "loss by step"):
            return
        for axes, (name, heading) in zip(parts, headings.items(), strict=True):
            curves = [(f"{column}_{name}", *look) for column, *look in LOSSES if column != "train_grid_loss"]
            _draw_losses(axes, rows, curves, heading)
        figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=len(LOSSES), fontsize=8)
        if "kl" in headings:
            _add_rate(parts[-1], _column(rows, "test_loss_kl"), _column(rows, "test_loss_rate"))


def _add_rate(axes: Axes, kl: np.ndarray, rate: np.ndarray) -> None:
    """A second axis on the right of the KL: the same as a rate."""
    known = (kl > 0) & (rate > 0)
    if not known.any():
        return
    factor = float(rate[known][-1] / kl[known][-1])
    right = axes.secondary_yaxis("right", functions=(_times(factor), _times(1 / factor)))
    right.set_ylabel("bits per pixel")
    if axes.get_yscale() == "log":
        _plain_numbers(right, axes.get_ylim()[0] * factor, axes.get_ylim()[1] * factor)


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda values: values * factor


def _draw_losses(axes: Axes, rows: Sequence[Mapping[str, Any]], curves: Sequence[Sequence[str]], heading: str) -> bool:
    """Curves (column, label, colour, style) over the steps. False where there is nothing to draw."""
    from matplotlib.ticker import MaxNLocator

    axes.set(title=heading, xlabel="step")
    steps = _column(rows, "step")
    drawn = []
    for name, label, colour, style in curves:
        values = _column(rows, name)
        known = np.isfinite(steps) & np.isfinite(values)
        x, y = steps[known], values[known]
        if not len(x):
            continue
        drawn.append(y)
        if len(x) >= MANY:
            axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.3, rasterized=True)
            y = _running_mean(y, len(y) // 50)
        axes.plot(x, y, color=colour, linestyle=style, marker=_marker(x), markersize=3, label=label)
    if not drawn:
        _say(axes, "no losses yet")
        return False
    _scale(axes, np.concatenate(drawn))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _mark_epochs(axes, steps, _column(rows, "epoch"))
    return True


def _mark_epochs(axes: Axes, steps: np.ndarray, epochs: np.ndarray) -> None:
    """A second axis on top: the epochs, each at the first step that is in it."""
    from matplotlib.ticker import MaxNLocator

    known = np.isfinite(steps) & np.isfinite(epochs)
    steps, epochs = steps[known], epochs[known]
    if not len(steps) or epochs.max() - epochs.min() < 2:
        return
    locator = MaxNLocator(6, integer=True, steps=[1, 2, 5, 10])
    ticks = locator.tick_values(epochs.min(), epochs.max())
    ticks = ticks[(epochs.min() < ticks) & (ticks <= epochs.max())]
    top = axes.secondary_xaxis("top")
    top.set_xticks([steps[np.argmax(epochs >= tick)] for tick in ticks], [f"{tick:,.0f}" for tick in ticks])
    _stay_back(top)
    axes.set_title(axes.get_title().replace("by step", "by step (below) and epoch (above)"))


def _draw_samples(axes: Axes, rows: Sequence[Mapping[str, Any]], column: str) -> None:
    """What samples of the EMA weights got, over the steps."""
    if column == "sample_recognised":
        rows = [{**row, column: 100 * value} for row, value in zip(rows, _column(rows, column), strict=True)]
    _draw_losses(axes, rows, [(column, "", COLOURS[1], "-")], SAMPLES[column])
    if column == "sample_recognised":
        axes.set(yscale="linear", ylim=(0, 103))


def _draw_measure(axes: Axes, rows: Sequence[Mapping[str, Any]], panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    factor = 100 if panel.percent else 1
    drawn = []
    for weights, name, colour, style in WEIGHTS:
        own = [row for row in rows if row["weights"] == weights]
        steps = _column(own, "step")
        value, low, high = (factor * _column(own, f"{panel.column}{end}") for end in ("", "_low", "_high"))
        axes.plot(steps, value, color=colour, linestyle=style, marker=_marker(steps), markersize=3, label=name)
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        drawn.append(value)
    if panel.floor is not None:
        axes.axhline(factor * panel.floor, color="0.35", linestyle="--", linewidth=1, label="real test images")
        drawn.append(np.array([factor * panel.floor]))
    axes.set(title=panel.heading, xlabel="step (epoch above)")
    if not panel.percent:
        _scale(axes, np.concatenate(drawn))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    epochs_per_step = float(rows[-1]["epoch"]) / float(rows[-1]["step"])
    top = axes.secondary_xaxis("top", functions=(_times(epochs_per_step), _times(1 / epochs_per_step)))
    top.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    _stay_back(top)


def _stay_back(top: Any) -> None:
    """The second axis on top, less to be seen than the first."""
    top.spines["top"].set_visible(False)
    top.tick_params(length=2, labelsize=8, labelcolor="0.35", color="0.35")


def _draw_by_time(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    axes.set(title="test loss by t, EMA weights", xlabel="t  (0 = clean, 1 = noise)", ylabel="loss", xlim=(0, 1))
    steps = _column(rows, "step")
    bins = np.stack([_column(rows, f"test_loss_t{k}") for k in range(TIME_BINS)], axis=1)  # (rows, 10)
    evaluated = np.flatnonzero(np.isfinite(bins).any(axis=1) & np.isfinite(steps))
    if not len(evaluated):
        _say(axes, "no evaluation yet")
        return
    centres = (np.arange(TIME_BINS) + 0.5) / TIME_BINS
    first, last = evaluated[0], evaluated[-1]
    if first != last:
        axes.plot(centres, bins[first], "s:", color="0.45", markersize=3, label=f"step {steps[first]:,.0f}")
    axes.plot(centres, bins[last], "o-", color=COLOURS[1], markersize=3, label=f"step {steps[last]:,.0f}")
    _scale(axes, bins[[first, last]])
    axes.set_xticks(np.linspace(0, 1, 6))
    _legend(axes)


def _scale(axes: Axes, losses: np.ndarray) -> None:
    """A logarithmic axis, with plain numbers, where the losses span a wide range."""
    low, high = np.nanmin(losses), np.nanmax(losses)
    if 0 < low < high / WIDE:
        axes.set_yscale("log")
        _plain_numbers(axes, low, high)


def _plain_numbers(axes: Any, low: float, high: float) -> None:
    """On a logarithmic axis that shows the numbers from low to high."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    multiples = (1, 1.5, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 1000 * low else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=multiples))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes) -> None:
    """Below the panel, where it hides no point."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, columnspacing=1.5, fontsize=8)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.35")
    axes.set(xticks=[], yticks=[])


def _marker(points: np.ndarray) -> str | None:
    return "o" if len(points) <= FEW else None


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """One column as float64, NaN where a cell holds no finite number."""

    def number(cell: Any) -> float:
        try:
            return float(cell)
        except (TypeError, ValueError):
            return np.nan

    values = np.array([number(row.get(name)) for row in rows], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the `width` values around each, of fewer at the ends."""
    ones = np.ones(width)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")
