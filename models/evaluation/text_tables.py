"""Tables as plain text, for the terminal and for files."""

import io
from collections.abc import Iterable, Sequence

WIDTH, WIDEST = 80, 1000


def text_table(rows: Iterable[Sequence[str]], headings: Sequence[str] = (), right: Sequence[int] = ()) -> str:
    """Return rows of cells as a table of 80 characters, or wider where a long word in it would be cut.

    Long cells are wrapped between words, except in the first column. right: indices of the columns that are aligned to
    the right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [tuple(row) for row in rows]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=bool(headings))
    for index, heading in enumerate(headings or [""] * len(rows[0])):
        justify = "right" if index in right else "left"
        table.add_column(Text(heading), justify=justify, no_wrap=index == 0)  # rich reads str as markup.
    for row in rows:
        table.add_row(*map(Text, row))
    buffer = io.StringIO()
    least = Console(file=buffer, width=WIDEST).measure(table).minimum
    Console(file=buffer, width=max(WIDTH, least), color_system=None).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
