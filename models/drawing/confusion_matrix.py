"""Confusion matrix of generated images: requested class against recognised class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.drawing.figure_files import figure_file
from models.drawing.lettering import class_titles

# Inches: side of a cell, smallest and largest side of a matrix, width of a letter, least width of the figure.
CELL, SMALLEST, LARGEST, LETTER, NARROWEST = 0.45, 2.4, 30.0, 0.075, 4.0


def draw_confusion_matrix(counts: np.ndarray, class_names: Sequence[str], path: Path | str, title: str) -> None:
    """Draw how often images of a requested class (row) were recognised as each class (column), in percent of the row.

    counts: integers (classes, classes). Raises UserError if the suffix is not .png, .pdf or .svg.
    """
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell, class_names = min(max(CELL, SMALLEST / len(counts)), LARGEST / len(counts)), class_titles(class_names)
    longest = max(map(len, class_names))
    names = LETTER * longest  # Inches that the class names take beside the matrix.
    below = 0.7 * names if longest > 2 else 0.0  # Names below the matrix are rotated by 45 degrees.
    size = (max(NARROWEST, cell * len(counts) + names + 0.6), cell * len(counts) + below + 0.9)
    with figure_file(size, path, title) as figure:
        figure.set_layout_engine("compressed")  # This layout centres the matrix with its labels.
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        axes.grid(False)
        positions = np.arange(len(counts))
        turned = {"rotation": 45, "ha": "right"} if longest > 2 else {}
        axes.set_xticks(positions, class_names, fontsize=8, parse_math=False, **turned)
        axes.set_yticks(positions, class_names, fontsize=8, parse_math=False)
        axes.set(xlabel="recognised class, % of the row", ylabel="requested class")
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = shares[row, column]
            text = f"{share:.0f}" if share >= 10 else f"{share:.1f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if share > 55 else "0.25")
