"""Figures that the functions under test write."""

from typing import Any

import matplotlib.figure
import pytest
from matplotlib.figure import Figure


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect the figures that are written."""
    figures: list[Figure] = []
    save = matplotlib.figure.Figure.savefig

    def keep(self: Figure, *args: Any, **options: Any) -> None:
        figures.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return figures
