"""Maps and other figures: written in every format, with the same bytes every time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from models.drawing import figure_files
from models.drawing.confusion_matrix import draw_confusion_matrix
from models.drawing.curves import draw_guidance_curves
from models.drawing.image_files import save_image
from models.drawing.maps import Cloud, SourceMap, draw_class_map

ROWS = [
    {"scale": scale, "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "diversity": 1 / (1 + scale)}
    for scale in (2.0, 0.0, 1.0)
]


def cloud(seed: int, classes: int) -> Cloud:
    random = np.random.default_rng(seed)
    return Cloud(random.standard_normal((50, 2)), random.integers(-1, classes, 50))


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_the_same_figure_gives_the_same_bytes_in_every_format(suffix: str, start: bytes, tmp_path: Path) -> None:
    names = [f"class {k}" for k in range(12)]
    for run in ("one", "two"):
        draw_guidance_curves(ROWS, 0.99, tmp_path / f"{run}-curves{suffix}", "a run, $ and $")
        draw_confusion_matrix(np.eye(12, dtype=int), names, tmp_path / f"{run}-matrix{suffix}", "a run")
        source_map = SourceMap(cloud(0, 12), names, ("one", "other"), "notes")
        source_map.draw(cloud(1, 12), tmp_path / f"{run}-map{suffix}", "a run")
        save_image(Image.new("L", (30, 20), 7), tmp_path / f"{run}-sheet{suffix}")
    for figure in ("curves", "matrix", "map", "sheet"):
        content = (tmp_path / f"one-{figure}{suffix}").read_bytes()
        assert content.startswith(start) and content == (tmp_path / f"two-{figure}{suffix}").read_bytes()


def test_frames_of_a_map_have_one_size() -> None:
    source_map = SourceMap(cloud(0, 3), "abc", ("x", "y"), "notes")
    frames = [source_map.frame(cloud(k, 3), "title") for k in (1, 2)]
    assert frames[0].size == frames[1].size and frames[0].mode == "RGB"
    assert (np.asarray(frames[0]) != np.asarray(frames[1])).any()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect the figures that are written."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: figures.append(self))
    monkeypatch.setattr(figure_files, "replacing", nullcontext)
    return figures


@pytest.mark.parametrize("classes", [1, 3, 10, 47, 60])
def test_classes_are_named_in_a_legend_that_covers_no_point(classes: int, drawn: list[Figure]) -> None:
    names = [f"class {k}" for k in range(classes)]
    points = Cloud(cloud(0, 1).points, np.arange(50) % classes)
    draw_class_map(points, names, ("x", "y"), Path("map.png"), "title")
    (figure,) = drawn
    (axes,), (legend,) = figure.axes, figure.legends
    assert not list(axes.texts) and [text.get_text() for text in legend.get_texts()] == names[:50]
    figure.draw_without_rendering()
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert figure.bbox.contains(*legend.get_window_extent().min) and axes.get_window_extent().height > 500
    looks = {(line.get_color(), line.get_marker()) for line in legend.get_lines()}
    assert len(looks) == min(classes, 50)


def test_odd_class_names_in_a_legend(drawn: list[Figure]) -> None:
    names = ["$x$ and $y", "_hidden", "a" * 300, "größe"]
    draw_class_map(Cloud(cloud(0, 1).points, np.arange(50) % 4), names, ("x", "y"), Path("map.png"), "title")
    texts = drawn[0].legends[0].get_texts()
    assert [text.get_text() for text in texts] == ["$x$ and $y", "_hidden", "a" * 31 + "…", "größe"]
    assert not any(text.get_parse_math() for text in texts)


def test_a_legend_of_very_many_classes_is_cut_with_a_note(drawn: list[Figure]) -> None:
    points = Cloud(np.random.default_rng(0).random((200, 2)), np.arange(200) % 100)
    draw_class_map(points, [str(k) for k in range(100)], ("x", "y"), Path("map.png"), "title")
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()][-2:] == ["59", "and 40 more"]


@pytest.mark.parametrize("classes", [0, 3])
def test_real_and_generated_images_have_panels_of_their_own(classes: int, drawn: list[Figure]) -> None:
    real, generated = (Cloud(cloud(seed, 1).points, np.arange(50) % (classes or 1) - (not classes)) for seed in (0, 1))
    SourceMap(real, "abc"[:classes], ("x", "y"), "notes").draw(generated, Path("map.png"), "title")
    left, right, _ = drawn[0].axes

    def points(axes: Axes, first: int = 0) -> list[list[float]]:
        return sorted(
            point for scatter in axes.collections[first:] for point in np.asarray(scatter.get_offsets()).tolist()
        )

    assert points(left) == sorted(real.points.tolist()) and points(right, 1) == sorted(generated.points.tolist())
    assert np.array_equal(right.collections[0].get_offsets(), real.points)  # in grey, below the generated ones
    assert left.get_xlim() == right.get_xlim() and len(drawn[0].legends) == (classes > 0)


def test_a_confusion_matrix_of_many_classes_and_of_names_with_dollars(tmp_path: Path) -> None:
    names = [f"price_$10_to_${number}" for number in range(120)]
    draw_confusion_matrix(np.eye(120, dtype=int), names, tmp_path / "matrix.png", "a run")
    with Image.open(tmp_path / "matrix.png") as image:
        assert max(image.size) < 6_000


@pytest.mark.parametrize("names", ["01", "0123456789", ("a cat", "a dog"), ("T-shirt/top", "Ankle boot", "Bag")])
def test_a_confusion_matrix_is_centred(names: Sequence[str], tmp_path: Path) -> None:
    counts = np.eye(len(names), dtype=int)
    draw_confusion_matrix(counts, names, tmp_path / "matrix.png", "20260208_143052-flow-mnist, step 12,000")
    dark = np.asarray(Image.open(tmp_path / "matrix.png").convert("L"))[60:] < 200  # below the title
    columns = np.flatnonzero(dark.any(0))
    left, right = columns[0], dark.shape[1] - 1 - columns[-1]
    assert abs(left - right) < 25 and np.flatnonzero(dark.any(1))[-1] > dark.shape[0] - 25


def test_a_map_by_class(tmp_path: Path) -> None:
    for classes, ticks in ((3, True), (0, False)):
        draw_class_map(cloud(0, classes), "abc"[:classes], ("x", "y"), tmp_path / "map.png", "title", ticks)
        assert Image.open(tmp_path / "map.png").width == 1050
