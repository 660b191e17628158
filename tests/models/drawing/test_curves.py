"""Curves show the numbers they receive, and tolerate the missing and broken cells of a real metrics.csv."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image

from models.drawing import curves, loss_curves
from models.drawing.pareto import ParetoPoint, draw_pareto
from models.errors import UserError

ENDS = (("", 0.0), ("_low", -0.1), ("_high", 0.1))
TRAIN, TEST = "train, raw weights", "test, EMA weights"


def row(step: int, train: Any = "", test: Any = "", scale: float = 1.0) -> dict[str, Any]:
    bins = {f"test_loss_t{k}": scale * (1 + k) if test != "" else "" for k in range(10)}
    return {"step": str(step), "epoch": step / 10, "train_loss": train, "test_loss": test, "lr": 1e-3, **bins}


def lines(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return x and y of each labelled curve."""
    named = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): (np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in named}


def test_losses_by_t_show_means_and_intervals(tmp_path: Path, drawn: list[Figure]) -> None:
    bins = [(1.0 + k, 0.5 + k, 1.5 + k) for k in range(9)] + [(np.nan,) * 3]
    loss_curves.draw_losses_by_t({"test": bins, "train": bins[::-1]}, tmp_path / "loss.png", "a run")
    (axes,) = drawn[0].axes
    x, y = lines(axes)["test"]
    assert np.allclose(x, np.linspace(0.05, 0.95, 10)) and np.allclose(y[:9], np.arange(1, 10)) and np.isnan(y[9])
    assert set(lines(axes)) == {"test", "train"} and axes.get_yscale() == "log"
    extent = axes.collections[0].get_datalim(axes.transData)
    assert np.allclose((extent.ymin, extent.ymax), (0.5, 9.5))
    assert (tmp_path / "loss.png").is_file()


def test_loss_curves_show_the_rows(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [row(10, 0.9, 0.8, 1.0), row(20, "0.7"), row(30, 0.5, "0.6", 0.5)]
    loss_curves.draw_loss_curves(rows, tmp_path / "loss.png", "größe · $5 and $6")
    over_steps, by_time = drawn[0].axes
    shown = lines(over_steps)
    assert np.array_equal(shown[TRAIN], ([10, 20, 30], [0.9, 0.7, 0.5]))
    assert np.array_equal(shown[TEST], ([10, 30], [0.8, 0.6]))
    assert set(shown) == {TRAIN, TEST}
    early, last = lines(by_time)["step 10"], lines(by_time)["step 30"]
    assert np.allclose(early[0], np.linspace(0.05, 0.95, 10)) and np.allclose(early[1], np.arange(1, 11))
    assert np.allclose(last[1], np.arange(1, 11) / 2)
    assert over_steps.get_yscale() == "linear" and by_time.get_yscale() == "log"
    assert drawn[0].get_suptitle() == "größe · $5 and $6"
    with Image.open(tmp_path / "loss.png") as image:
        assert image.width > 1000
    assert [file.name for file in tmp_path.iterdir()] == ["loss.png"]


@pytest.mark.parametrize("variational", [True, False])
def test_an_autoencoder_shows_the_parts_of_its_loss(tmp_path: Path, drawn: list[Figure], variational: bool) -> None:
    kl = {"train_loss_kl": 9, "test_loss_kl": "8", "test_loss_rate": 0.02} if variational else {}
    parts = {"train_loss_reconstruction": 0.6, "test_loss_reconstruction": "0.5", **kl}
    rows = [{"step": step, "epoch": step / 10, "train_loss": 0.7, "test_loss": 0.6, **parts} for step in (10, 20)]
    loss_curves.draw_loss_curves(rows, tmp_path / "loss.png")
    loss, reconstruction, *rest = drawn[0].axes
    assert np.array_equal(lines(loss)[TEST], ([10, 20], [0.6, 0.6]))
    assert np.array_equal(lines(reconstruction)[TRAIN], ([10, 20], [0.6, 0.6]))
    assert np.array_equal(lines(reconstruction)[TEST], ([10, 20], [0.5, 0.5]))
    assert len(rest) == variational
    if variational:
        assert np.array_equal(lines(rest[0])[TEST], ([10, 20], [8, 8]))
        (rate,) = (axes for axes in rest[0].child_axes if axes.get_ylabel() == "bits per dimension")
        assert np.allclose(np.array(rate.get_ylim()) * 400, rest[0].get_ylim())
    assert [text.get_text() for text in drawn[0].legends[0].texts] == [TRAIN, TEST]


def test_measured_samples_have_panels(tmp_path: Path, drawn: list[Figure]) -> None:
    cells = ({"sample_distance": "4", "sample_recognised": "0.5"}, {"sample_distance": "", "sample_recognised": ""})
    rows = [{**row(10 * k, 0.5, 0.4), **cell} for k, cell in enumerate((*cells, cells[0]), 1)]
    loss_curves.draw_loss_curves(rows, tmp_path / "loss.png")
    _, _, distance, recognised = drawn[0].axes
    for axes, values in ((distance, [4, 4]), (recognised, [50, 50])):
        (line,) = axes.lines
        assert np.array_equal(line.get_xdata(), [10, 30]) and np.array_equal(line.get_ydata(), values)
    assert recognised.get_yscale() == "linear" and recognised.get_ylim()[0] == 0
    loss_curves.draw_loss_curves([{**row, "sample_recognised": ""} for row in rows], tmp_path / "loss.png")
    assert len(drawn[1].axes) == 3


def test_checkpoint_curves_show_both_weights_and_the_floor(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [
        {"step": step, "epoch": step / 20, "weights": weights}
        | {f"{name}{end}": value + shift for name, value in (("loss", 1 / step), ("share", 0.5)) for end, shift in ENDS}
        for step in (10, 20, 40)
        for weights in ("raw", "ema")
    ]
    rows[-1]["loss"] = 0.01
    panels = [curves.Panel("loss", "the loss"), curves.Panel("share", "the share", 0.9, percent=True)]
    curves.draw_checkpoint_curves(rows, panels, tmp_path / "checkpoints.png", "a run")
    loss, share = drawn[0].axes
    assert np.allclose(lines(loss)["raw weights"], ([10, 20, 40], [0.1, 0.05, 0.025]))
    assert np.allclose(lines(loss)["EMA weights"], ([10, 20, 40], [0.1, 0.05, 0.01]))
    assert np.allclose(lines(share)["EMA weights"][1], 50) and np.allclose(lines(share)["real test images"][1], 90)
    assert loss.get_yscale() == "log" and "real test images" not in lines(loss)
    (top,) = loss.child_axes
    drawn[0].draw_without_rendering()
    assert np.allclose(np.array(top.get_xlim()) * 20, loss.get_xlim())
    band = np.asarray(share.collections[0].get_paths()[0].vertices)
    assert band[:, 1].min() == pytest.approx(40) and band[:, 1].max() == pytest.approx(60)
    assert [text.get_text() for text in drawn[0].legends[0].texts] == ["raw weights", "EMA weights", "real test images"]


def test_one_checkpoint_is_enough(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [{"step": 3, "epoch": 0.1, "weights": "ema", "loss": 1.0, "loss_low": 0.9, "loss_high": 1.1}]
    curves.draw_checkpoint_curves(rows, [curves.Panel("loss", "the loss", 0.5)], tmp_path / "checkpoints.pdf")
    assert np.array_equal(lines(drawn[0].axes[0])["EMA weights"], ([3], [1]))


def test_missing_and_broken_cells(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [row(1, 3.0, 2.0), row(2, "nan", 1.5), row(3, float("inf"), None), {"step": 4}, {"train_loss": 1}]
    rows[1]["test_loss_t4"] = ""
    loss_curves.draw_loss_curves(rows, tmp_path / "loss.png")
    over_steps, by_time = drawn[0].axes
    assert np.array_equal(lines(over_steps)[TRAIN], ([1], [3.0]))
    assert np.array_equal(lines(over_steps)[TEST], ([1, 2], [2.0, 1.5]))
    assert np.isnan(lines(by_time)["step 3"][1]).tolist() == [False] * 10
    assert np.isnan(lines(by_time)["step 1"][1]).tolist() == [False] * 10


@pytest.mark.parametrize("rows", [[], [{"step": 1, "train_loss": "nan"}]])
def test_a_figure_without_data_has_a_notice(tmp_path: Path, drawn: list[Figure], rows: list[dict[str, Any]]) -> None:
    loss_curves.draw_loss_curves(rows, tmp_path / "loss.png")
    assert [axes.texts[0].get_text() for axes in drawn[0].axes] == ["no losses yet", "no evaluation yet"]


def test_a_student_without_classes_has_one_panel(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [{"step": n, "epoch": n / 10, "train_loss": 1 / n, "test_loss": 2 / n} for n in range(1, 5)]
    loss_curves.draw_loss_curves(rows, tmp_path / "loss.png")
    (over_steps,) = drawn[0].axes
    assert set(lines(over_steps)) == {TRAIN, TEST}


def test_one_row_is_a_visible_point(tmp_path: Path, drawn: list[Figure]) -> None:
    loss_curves.draw_loss_curves([row(7, 0.5, 0.4)], tmp_path / "loss.png")
    over_steps, by_time = drawn[0].axes
    assert all(line.get_marker() == "o" for line in over_steps.lines)
    assert list(lines(by_time)) == ["step 7"]


def test_thousands_of_rows_are_smoothed_and_logarithmic(tmp_path: Path, drawn: list[Figure]) -> None:
    losses = 0.1 + np.exp(-np.arange(5000) / 100)
    loss_curves.draw_loss_curves([row(k, loss) for k, loss in enumerate(losses)], tmp_path / "loss.pdf")
    axes = drawn[0].axes[0]
    assert axes.get_yscale() == "log"
    assert np.array_equal(axes.lines[0].get_ydata(), losses)
    assert np.allclose(lines(axes)[TRAIN][1][2000:], 0.1)


def test_running_mean_is_unbiased_at_the_ends() -> None:
    assert np.allclose(loss_curves._running_mean(np.full(300, 3.0), 6), 3.0)
    assert np.allclose(loss_curves._running_mean(np.arange(5.0), 3), [0.5, 1, 2, 3, 3.5])


@pytest.mark.parametrize(
    "steps", [(7, 40, 170, 300, 463), (463,), (23, 463), (5, 6, 7, 463)], ids=lambda steps: f"{len(steps)} rows"
)
def test_epochs_are_marked_where_they_are(steps: tuple[int, ...], tmp_path: Path, drawn: list[Figure]) -> None:
    """An epoch has 10 steps. Rows are logged at other steps."""
    loss_curves.draw_loss_curves([row(step, 1 / step) for step in steps], tmp_path / "loss.png")
    axes = drawn[0].axes[0]
    (top,) = axes.child_axes
    epochs = [float(label.get_text()) for label in top.get_xticklabels()]
    assert len(epochs) >= 2 and np.allclose(top.get_xticks(), np.array(epochs) * 10)
    low, high = axes.get_xlim()
    assert all(low <= tick <= high for tick in top.get_xticks())


@pytest.mark.parametrize(
    ("scales", "fit"),
    [((0, 1, 2, 4), True), ((0, 1, 1.5, 2, 4, 8), True), ((2,), True), ((1, 1.1, 8), False), ((0, 1, 1.01, 30), False)],
)
def test_guidance_scales_have_a_true_axis(
    scales: tuple[float, ...], fit: bool, tmp_path: Path, drawn: list[Figure]
) -> None:
    names = ("accuracy", "accuracy_low", "accuracy_high", "diversity")
    rows = [{"scale": float(scale), **dict.fromkeys(names, 0.5)} for scale in reversed(scales)]
    curves.draw_guidance_curves(rows, 0.9, tmp_path / "guidance.png", "title")
    for axes in drawn[0].axes:
        assert np.array_equal(axes.lines[0].get_xdata(), scales) and axes.get_xscale() == "linear"
        drawn[0].draw_without_rendering()
        assert (axes.get_xticks().tolist() == list(scales)) == (len(axes.texts) == len(scales)) == fit
        assert len(axes.get_xticks()) >= min(len(scales), 3)
        boxes = [tick.get_window_extent() for tick in axes.get_xticklabels()]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))


def test_epochs_are_marked_at_their_first_step(tmp_path: Path, drawn: list[Figure]) -> None:
    loss_curves.draw_loss_curves([row(step, 1.0) for step in range(61)], tmp_path / "loss.png")
    (top,) = drawn[0].axes[0].child_axes
    labels = [label.get_text() for label in top.get_xticklabels()]
    assert labels == ["1", "2", "3", "4", "5", "6"]
    assert np.array_equal(top.get_xticks(), [10, 20, 30, 40, 50, 60])


def test_an_unknown_format_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"loss\.gif.*\.png, \.pdf, \.svg"):
        loss_curves.draw_loss_curves([], tmp_path / "loss.gif")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Figure, file: Path, **options: Any) -> None:
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space"):
        loss_curves.draw_loss_curves([row(1, 1.0)], tmp_path / "loss.png")
    assert not list(tmp_path.iterdir())


def test_schedule_curves(tmp_path: Path, drawn: list[Figure]) -> None:
    """Infinite ends are omitted, no two curves look the same, and the legend covers no panel."""
    t = np.linspace(0, 1, 101)
    with np.errstate(divide="ignore"):
        flow = (t, 1 - t, t, 2 * np.log((1 - t) / t))
    chain = np.linspace(0, 1, 5)
    short = (chain, np.sqrt(1 - chain), np.sqrt(chain), np.array([np.inf, 60.0, 0.0, -80.0, -np.inf]))
    schedules = {"flow": flow, "$short$, T = 4": short, **{f"flow {k}": flow for k in range(7)}}
    curves.draw_schedule_curves(schedules, tmp_path / "schedules.svg", "noise schedules")
    panels, legend = drawn[0].axes, drawn[0].legends[0]
    assert np.array_equal(panels[0].lines[0].get_ydata(), 1 - t)
    assert np.array_equal(panels[1].lines[0].get_ydata(), t)
    assert np.array_equal(panels[2].lines[0].get_xdata(), t[1:-1])
    low, high = panels[2].get_ylim()
    assert -25 < low < -19 and 19 < high < 25
    looks = {(line.get_color(), line._unscaled_dash_pattern) for line in panels[0].lines}  # type: ignore[attr-defined]
    assert len(looks) == len(schedules)
    assert [text.get_text() for text in legend.get_texts()] == list(schedules)
    drawn[0].draw_without_rendering()
    assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in panels)


def test_the_settings_of_matplotlib_are_unchanged(tmp_path: Path) -> None:
    before = matplotlib.rcParams["axes.grid"], matplotlib.rcParams["font.size"]
    loss_curves.draw_loss_curves([row(1, 1.0)], tmp_path / "loss.png")
    assert (matplotlib.rcParams["axes.grid"], matplotlib.rcParams["font.size"]) == before


def test_a_pareto_picture_shows_every_point_and_pales_the_dominated(tmp_path: Path, drawn: list[Figure]) -> None:
    costs = {"ddim": (2, 8.0), "heun": (4, 4.0), "slow $a$ heun $b$": (4, 6.0), "student": (1, 6.0)}
    rows = [
        ParetoPoint(label, group, n, n / 100, value, value - 1, value + 1, 2.0, student=label == "student")
        for group in ("plain", "guided")
        for label, (n, value) in costs.items()
    ]
    draw_pareto(rows, tmp_path / "pareto.png", "four samplers", "mmd")
    panels, legend = drawn[0].axes, drawn[0].legends[0]
    assert [axes.get_title() for axes in panels] == ["plain", "plain", "guided", "guided"]
    for axes, share in zip(panels, (1, 0.01, 1, 0.01), strict=True):
        bars = [bar for bar in axes.containers if isinstance(bar, ErrorbarContainer)]
        points: dict[str, Any] = {str(bar.lines[0].get_marker()): bar.lines[0] for bar in bars}
        shown = [(line.get_xdata()[0], line.get_ydata()[0]) for line in points.values()]
        assert np.allclose(shown, [(n * share, value / 2) for n, value in costs.values()])
        assert {marker for marker, line in points.items() if line.get_alpha() == 1} == {"s", "*"}
        assert axes.get_xscale() == axes.get_yscale() == "log"
    drawn[0].draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in panels]
    assert not any(box is None or legend.get_window_extent().overlaps(box) for box in boxes)
    assert [text.get_text() for text in legend.get_texts()] == [*costs, "real images"]
