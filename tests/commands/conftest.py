"""Shared by the tests of commands: their runs draw no curves, which tests/models/drawing looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.training import latent_pictures, log


def _instead_of(draw: Any) -> Any:
    """Return a function that writes a picture of one point, or draws as `draw` does in other formats than PNG."""

    def write(*arguments: Any, **options: Any) -> None:
        path = next(argument for argument in arguments if isinstance(argument, Path))
        if path.suffix == ".png":
            Image.new("L", (1, 1)).save(path)
        else:
            draw(*arguments, **options)

    return write


@pytest.fixture(autouse=True)
def _no_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare half of the time of a run of a few steps, unless the test has the mark `curves`."""
    if request.node.get_closest_marker("curves"):
        return
    for module, name in ((log, "draw_loss_curves"), (latent_pictures, "draw_class_map")):
        monkeypatch.setattr(module, name, _instead_of(getattr(module, name)))
