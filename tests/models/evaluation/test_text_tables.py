"""Tables as plain text."""

from __future__ import annotations

import pytest

from models.evaluation.text_tables import text_table


def test_cells_are_aligned_and_brackets_are_no_markup() -> None:
    table = text_table([("a", "1 [0, 2]"), ("long", "13 [7, 19]")], ("", "value [95 %]"), right=(1,))
    assert table.splitlines() == ["      value [95 %]", "a         1 [0, 2]", "long    13 [7, 19]"]


def test_long_cells_are_wrapped_but_the_first_column_is_not() -> None:
    name, text = "n" * 40, "many words " * 20
    lines = text_table([(name, text)]).splitlines()
    assert len(lines) > 2 and lines[0].startswith(f"{name}  many") and max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", ["n" * 75, "optimizer adamw, network.width 64, network.patch_size 2, sampler heun 12"])
@pytest.mark.parametrize("figure", ["12.34", "1.234 [0.912, 1.131] *"])
def test_no_cell_is_cut(name: str, figure: str) -> None:
    """A table that does not fit is wider instead."""
    table = text_table([(name, figure, "56.78")], ("name", "distance [95 %]", "recall"), right=(1,))
    assert "…" not in table and name in table
    assert sorted(table.split()) == sorted(f"name distance [95 %] recall {name} {figure} 56.78".split())
