"""Maps and other figures: written in every format, with the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_a_map_by_class(tmp_path: Path) -> None:
    for classes, ticks in ((3, True), (0, False)):
        draw_class_map(cloud(0, classes), "abc"[:classes], ("x", "y"), tmp_path / "map.png", "title", ticks)
        assert Image.open(tmp_path / "map.png").width == 1050
