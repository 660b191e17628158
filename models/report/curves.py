"""Curves of a run as plain data, which charts.js draws, and the sparkline of the index."""

import math
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from models.report.reading import Columns, RunFacts

MOST_POINTS = 400
SPARK_POINTS, SPARK_WIDTH, SPARK_HEIGHT = 40, 100, 24
Chart = dict[str, Any]


def charts_of(run: RunFacts) -> list[Chart]:
    """Return the charts of a run. Charts without a curve are left out.

    key: charts with the same key are drawn over each other in a comparison. x, y: titles of the axes. log: allow a
    logarithmic y axis. It is used if all values are positive and span a wide range. series: curves with name, style,
    x and y.
    """
    metrics, monitor = run.metrics, run.monitor
    minutes = {**monitor, "time": [None if time is None else time / 60 for time in monitor.get("time", [])]}

    def over_steps(key: str, title: str, y: str, names: dict[str, str], log: bool = False) -> Chart:
        series = [_series(metrics, "step", column, name) for column, name in names.items()]
        return {"key": key, "title": title, "x": "step", "y": y, "log": log, "series": series}

    def over_minutes(key: str, title: str, y: str, names: dict[str, str]) -> Chart:
        series = [_series(minutes, "time", column, name) for column, name in names.items()]
        return {"key": key, "title": title, "x": "minutes", "y": y, "log": False, "series": series}

    losses = {"train_loss": "train", "train_grid_loss": "train, frozen grid", "test_loss": "test"}
    charts = [
        over_steps("loss", "Loss", "loss", losses, log=True),
        _by_bin(metrics, "t", 10, "t (0 clean, 1 noise)"),
        _by_bin(metrics, "class", _classes(metrics), "class"),
        *(over_steps(column, title, title, {column: title}, log=True) for column, title in _parts(metrics)),
        *(over_steps(column, title, title, {column: title}) for column, title in _figures(metrics)),
        over_steps("lr", "Learning rate", "learning rate", {"lr": "learning rate"}),
        over_steps("grad_norm", "Gradient norm", "norm", {"grad_norm": "gradient norm"}, log=True),
        over_steps("speed", "Speed", "images/s", {"images_per_second": "images/s"}),
        over_minutes("use", "Use of CPU and GPU", "%", {"cpu_percent": "CPU", "gpu_percent": "GPU"}),
        over_minutes("memory", "Memory", "MiB", {"memory_mib": "process", "gpu_memory_mib": "GPU"}),
        over_minutes("power", "Power of the GPU", "W", {"gpu_power_w": "power"}),
    ]
    for chart in charts:
        chart["series"] = [series for series in chart["series"] if series["y"]]
    return [chart for chart in charts if chart["series"]]


def _series(columns: Columns, x: str, y: str, name: str) -> Chart:
    """Return a curve of two columns. Rows with equal x, one for each GPU, are averaged."""
    known = ((at, value) for at, value in zip(columns.get(x, []), columns.get(y, []), strict=False))
    complete = [(at, value) for at, value in known if at is not None and value is not None]
    means = [(at, fmean(value for _, value in rows)) for at, rows in groupby(complete, key=lambda row: row[0])]
    pairs = _thinned(means, MOST_POINTS)
    style = {"train": "thin", "train, frozen grid": "dashed"}.get(name, "line")
    return {
        "name": name,
        "style": style,
        "x": [_short(at) for at, _ in pairs],
        "y": [_short(value) for _, value in pairs],
    }


def _by_bin(metrics: Columns, part: str, count: int, x: str) -> Chart:
    """Return the chart of the losses in bins of t, or by class, at the first and the last evaluation.

    part: "t" or "class", as in the names of the columns. count: number of bins. x: title of the axis.
    """
    rows = [k for k, loss in enumerate(metrics.get("test_loss", [])) if loss is not None]
    series = []
    for split, at, name in (("test", 0, "test, first"), ("train", -1, "train, last"), ("test", -1, "test, last")):
        columns = [metrics.get(f"{split}_loss_{part}{k}") for k in range(count)]
        if rows and None not in columns and (at == -1 or len(rows) > 1):
            values = [column[rows[at]] for column in columns if column is not None]
            places = [(k + 0.5) / count if part == "t" else k for k in range(count)]
            known = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
            style = {"test, first": "dashed", "train, last": "thin"}.get(name, "line")
            xs, ys = [_short(place) for place, _ in known], [_short(value) for _, value in known]
            series.append({"name": name, "style": style, "x": xs, "y": ys})
    return {"key": f"by_{part}", "title": f"Loss by {part}", "x": x, "y": "loss", "log": True, "series": series}


def _classes(metrics: Columns) -> int:
    """Return the number of classes whose test losses a student logs."""
    return sum(name.startswith("test_loss_class") for name in metrics)


def _parts(metrics: Columns) -> list[tuple[str, str]]:
    """Return the columns with the parts of an autoencoder's test loss, each with its title."""
    names = [name for name in metrics if name.startswith("test_loss_") and not name[-1].isdigit()]
    return [(name, f"{name.removeprefix('test_loss_').capitalize()} (test)") for name in names]


def _figures(metrics: Columns) -> list[tuple[str, str]]:
    """Return the columns with the measures of samples during training, each with its title."""
    names = [name for name in metrics if name.startswith("sample_")]
    return [(name, name.replace("_", " ").capitalize()) for name in names]


def _thinned(values: Sequence[Any], most: int) -> Sequence[Any]:
    """Return up to `most` evenly spaced values, the first and the last included."""
    if len(values) <= most:
        return values
    return [values[round(k * (len(values) - 1) / (most - 1))] for k in range(most)]


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def spark(run: RunFacts) -> str:
    """Return the points of a sparkline of the test loss, or of the training loss, in a box of 100 by 24; "" if none."""
    for column in ("test_loss", "train_loss"):
        values = [value for value in run.metrics.get(column, []) if value is not None and value > 0]
        if len(values) > 2:
            logs = [math.log(value) for value in _thinned(values, SPARK_POINTS)]
            low, high = min(logs), max(logs)
            scale = (SPARK_HEIGHT - 2) / (high - low or 1)
            step = SPARK_WIDTH / (len(logs) - 1)
            return " ".join(f"{k * step:.0f},{1 + (high - value) * scale:.0f}" for k, value in enumerate(logs))
    return ""
