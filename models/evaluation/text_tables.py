"""Tables as plain text, for the terminal and for files."""

import io
from collections.abc import Iterable, Sequence

WIDTH, GAP = 80, 2


def text_table(rows: Iterable[Sequence[str]], headings: Sequence[str] = (), right: Sequence[int] = ()) -> str:
    """Return rows of cells as a table 80 characters wide, or wider if a word or the first column would be cut.

    Long cells are wrapped between words, except in the first column. right: indices of the columns that are aligned to
    the right.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [tuple(row) for row in rows]
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, show_header=bool(headings))
    least = 0
    for index, heading in enumerate(headings or [""] * len(rows[0])):
        cells = [heading, *(row[index] for row in rows)]
        pieces = cells if index == 0 else [word for cell in cells for word in cell.split()]
        width = max(map(cell_len, pieces), default=0)
        justify = "right" if index in right else "left"
        # rich reads str as markup.
        table.add_column(Text(heading), justify=justify, no_wrap=index == 0, min_width=width)
        least += width + GAP
    for row in rows:
        table.add_row(*map(Text, row))
    buffer = io.StringIO()
    Console(file=buffer, width=max(WIDTH, least), color_system=None).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
