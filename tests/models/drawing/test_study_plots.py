"""Plots of studies: what each cell's marks say."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from models.drawing.study_plots import StudyPanel, draw_study

LABELS = [{"loss": name} for name in ("l2", "l1", "huber")]


def drawn(monkeypatch: pytest.MonkeyPatch, path: Path, intervals: np.ndarray) -> dict[str, list[list[float]]]:
    """Draw a study of three cells, of which the last differs. Return the points of each entry of the legend."""
    lines: dict[str, list[list[float]]] = {}
    plot = Axes.plot

    def keep(self: Axes, *args: object, **options: object) -> object:
        made = plot(self, *args, **options)  # type: ignore[arg-type]
        for line in made:
            lines.setdefault(str(options.get("label", "interval")), []).append(line.get_xdata().tolist())  # type: ignore[union-attr]
        return made

    monkeypatch.setattr(Axes, "plot", keep)
    values = np.array([[1.0, 1.2], [1.1, 1.3], [3.0, 3.2]])[:, : 2 if np.isfinite(intervals).any() else 1]
    panel = StudyPanel("distance", values, values.mean(1), [False, False, True], intervals, 1.0, False)
    draw_study(LABELS, [panel], path / "plot.png", "?")
    return lines


def test_intervals_stand_around_the_means(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = drawn(monkeypatch, tmp_path, np.array([[np.nan, np.nan], [0.9, 1.5], [2.8, 3.4]]))
    assert lines["mean, no difference found"] == [pytest.approx([1.1, 1.2])]
    assert lines["mean, differs"] == [pytest.approx([3.1])]
    assert [0.9, 1.5] in lines["interval"] and [2.8, 3.4] in lines["interval"]


def test_without_intervals_nothing_is_said_to_be_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = drawn(monkeypatch, tmp_path, np.full((3, 2), np.nan))
    assert "mean, not compared" in lines and not any("differ" in label for label in lines)
