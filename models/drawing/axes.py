"""Helpers for the axes of curves: table columns, markers, scales, step axes and legends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = 30  # A curve of at most this many points has markers.
WIDE = 5.0  # Ratio of the largest to the smallest value above which the axis is logarithmic.


def read_column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Return a column as float64, with NaN for cells that hold no finite number."""

    def number(cell: Any) -> float:
        try:
            return float(cell)
        except (TypeError, ValueError):
            return np.nan

    values = np.array([number(row.get(name)) for row in rows])
    return np.where(np.isfinite(values), values, np.nan)


def marker(points: np.ndarray) -> str | None:
    """Return the marker of a curve: none if it has many points."""
    return "o" if len(points) <= FEW else None


def scale_axis(axes: Axes, values: np.ndarray, which: Literal["x", "y"] = "y") -> None:
    """Make an axis logarithmic, with decimal labels, if the values are positive and span a wide range."""
    low, high = np.nanmin(values), np.nanmax(values)
    if 0 < low < high / WIDE:
        axes.set(**{f"{which}scale": "log"})
        label_plainly(getattr(axes, f"{which}axis"), low, high)


def label_plainly(axis: Any, low: float, high: float) -> None:
    """Label a logarithmic axis from low to high with numbers such as 0.2 instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    subs = (1, 1.5, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 1000 * low else (1,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def label_steps(axes: Axes, ticks: int) -> None:
    """Label the x axis with about `ticks` whole steps, such as 12,000."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def fade(top: Any) -> None:
    """Make a second axis at the top less prominent than the first."""
    top.spines["top"].set_visible(False)
    top.tick_params(length=2, labelsize=8, labelcolor="0.35", color="0.35")


def multiples(factor: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return two functions for a secondary axis: multiply by `factor`, and its inverse."""
    return lambda values: values * factor, lambda values: values * (1 / factor)


def put_legend_below(axes: Axes) -> None:
    """Put the legend below the axes, where it hides no point."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, columnspacing=1.5, fontsize=8)
