"""Rows of metrics.csv: complete, readable by programs, and cut at the step of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.runs.metrics import Metrics


def test_metrics_are_rows_for_programs(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.csv", ["step", "loss", "note"])
    metrics.add({"step": 1, "loss": 0.123456789, "note": 'a "quoted", comma'})
    metrics.add({"step": 2, "loss": None, "unknown": 3})
    assert (tmp_path / "metrics.csv").read_text() == 'step,loss,note\n1,0.123457,"a ""quoted"", comma"\n2,,\n'


def test_metrics_after_the_checkpoint_are_computed_again(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.csv", ["step", "loss"])
    for step in (10, 20, 30):
        metrics.add({"step": step, "loss": step / 7})
    before = (tmp_path / "metrics.csv").read_text().splitlines()
    again = Metrics(tmp_path / "metrics.csv", ["step", "loss"])
    again.cut_after(20)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == before[:3]
    assert [row["step"] for row in again.rows] == ["10", "20"]
    again.add({"step": 30, "loss": 30 / 7})
    assert (tmp_path / "metrics.csv").read_text().splitlines() == before


@pytest.mark.parametrize("torn", ["1", "12,", "x", "12,0.5,7", ",", "\n"])
def test_a_row_cut_short_is_dropped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n10,0.5\n" + torn)
    metrics = Metrics(path, ["step", "loss"])
    metrics.cut_after(11)
    assert path.read_text() == "step,loss\n10,0.5\n"


def test_no_metrics_yet(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.csv", ["step"])
    metrics.cut_after(5)
    assert metrics.rows == []
    assert not (tmp_path / "metrics.csv").exists()
