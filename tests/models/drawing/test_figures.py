"""Figures of measurements: written whole in every format, with the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models.drawing.figures import Cloud
from PIL import Image

from models.drawing import figures, pictures

ROWS = [
    {"scale": scale, "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "diversity": 1 / (1 + scale)}
    for scale in (2.0, 0.0, 1.0)
]


def cloud(seed: int, classes: int) -> Cloud:
    random = np.random.default_rng(seed)
    return Cloud(random.standard_normal((50, 2)), random.integers(-1, classes, 50))


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_formats_and_sameness(suffix: str, start: bytes, tmp_path: Path) -> None:
    for name in ("one", "two"):
        figures.guidance_curves(ROWS, 0.99, tmp_path / f"{name}-curves{suffix}", "a run, $ and $")
        names = [f"class {k}" for k in range(12)]
        figures.map_figure(
            cloud(0, 12), cloud(1, 12), names, ("one", "other"), "notes", tmp_path / f"{name}-map{suffix}", "a run"
        )
        pictures.save_image(Image.new("L", (30, 20), 7), tmp_path / f"{name}-sheet{suffix}")
    for what in ("curves", "map", "sheet"):
        content = (tmp_path / f"one-{what}{suffix}").read_bytes()
        assert content.startswith(start) and content == (tmp_path / f"two-{what}{suffix}").read_bytes()


def test_frames_of_a_map_are_of_one_size() -> None:
    frames = [figures.map_picture(cloud(0, 3), cloud(k, 3), "abc", ("x", "y"), "notes", "title") for k in (1, 2)]
    assert frames[0].size == frames[1].size and frames[0].mode == "RGB"
    assert (np.asarray(frames[0]) != np.asarray(frames[1])).any()


def test_a_map_by_class(tmp_path: Path) -> None:
    for classes, ticks in ((3, True), (0, False)):
        names = "abc"[:classes]
        figures.class_map(cloud(0, classes), names, ("x", "y"), tmp_path / "map.png", "title", ticks)
        assert Image.open(tmp_path / "map.png").width == 1050
