"""Plots of studies: what each cell's marks say."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from models.drawing.study_plots import StudyPanel, draw_study

LABELS = [{"loss": name} for name in ("l2", "l1", "huber")]


def lines(figure: Figure) -> dict[str, list[list[float]]]:
    """Return x of the lines of the first panel by label; "interval" for lines without a label."""
    found: dict[str, list[list[float]]] = {}
    for line in figure.axes[0].lines:
        label = str(line.get_label())
        found.setdefault("interval" if label.startswith("_") else label, []).append(
            np.asarray(line.get_xdata()).tolist()
        )
    return found


def draw(intervals: np.ndarray, path: Path) -> None:
    """Draw a study of three cells, of which the last differs."""
    values = np.array([[1.0, 1.2], [1.1, 1.3], [3.0, 3.2]])[:, : 2 if np.isfinite(intervals).any() else 1]
    panel = StudyPanel("distance", values, values.mean(1), [False, False, True], intervals, 1.0, False)
    draw_study(LABELS, [panel], path / "plot.png", "?")


def test_intervals_stand_around_the_means(tmp_path: Path, drawn: list[Figure]) -> None:
    draw(np.array([[np.nan, np.nan], [0.9, 1.5], [2.8, 3.4]]), tmp_path)
    found = lines(drawn[0])
    assert found["mean, no difference found"] == [pytest.approx([1.1, 1.2])]
    assert found["mean, differs"] == [pytest.approx([3.1])]
    assert [0.9, 1.5] in found["interval"] and [2.8, 3.4] in found["interval"]


def test_without_intervals_nothing_is_said_to_be_compared(tmp_path: Path, drawn: list[Figure]) -> None:
    draw(np.full((3, 2), np.nan), tmp_path)
    assert "mean, not compared" in lines(drawn[0]) and not any("differ" in label for label in lines(drawn[0]))
