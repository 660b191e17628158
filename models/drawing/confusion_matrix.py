"""Confusion matrix of generated images: requested class against recognised class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.drawing.figure_files import figure_file


def draw_confusion_matrix(counts: np.ndarray, class_names: Sequence[str], path: Path | str, title: str) -> None:
    """Draw how often images of each class (row) were recognised as each class (column), in percent of the row.

    counts: integers (classes, classes). Raises UserError if the suffix is not .png, .pdf or .svg.
    """
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 1.8 + 0.45 * len(counts)
    with figure_file((side + 1.2, side), path, title) as figure:
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        axes.grid(False)
        positions = np.arange(len(counts))
        turned = {"rotation": 45, "ha": "right"} if max(map(len, class_names)) > 2 else {}
        axes.set_xticks(positions, class_names, fontsize=8, **turned)
        axes.set_yticks(positions, class_names, fontsize=8)
        axes.set(xlabel="recognised class, % of the row", ylabel="requested class")
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = shares[row, column]
            text = f"{share:.0f}" if share >= 10 else f"{share:.1f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if share > 55 else "0.25")
