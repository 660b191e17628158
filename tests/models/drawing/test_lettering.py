"""Lines of titles break where they read well."""

from __future__ import annotations

import textwrap

import pytest

from models.drawing.lettering import fit_texts, keep_together


@pytest.mark.parametrize(
    ("title", "whole"),
    [
        (
            "20261128_000708-flow-digits-flow, step 294, ema weights, ddim, 8 steps, NFE 8",
            ("step 294", "8 steps", "NFE 8"),
        ),
        ("a run, t = 0.92: 1,438 images of 10 classes, epoch 1.5", ("t = 0.92", "1,438 images", "epoch 1.5")),
        (
            "20260208_143052-ddpm-mnist · step 12,000 · DDIM, 50 NFE · guidance 1.5 · EMA weights",
            ("step 12,000", "50 NFE", "guidance 1.5"),
        ),
    ],
)
def test_no_title_breaks_beside_a_number(title: str, whole: tuple[str, ...]) -> None:
    for width in range(150, 600, 7):
        (text,) = fit_texts([title], width, 14, 12)
        lines = [line.replace("\N{NO-BREAK SPACE}", " ") for line in text.lines]
        assert all(any(part in line for line in lines) for part in whole), (width, lines)
    for width in range(20, 100):
        lines = textwrap.wrap(keep_together(title), width)
        assert all(any(part in line.replace("\N{NO-BREAK SPACE}", " ") for line in lines) for part in whole)
