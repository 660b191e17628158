"""Table of a run's losses and other measurements, metrics.csv."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.runs.files import write_text


class Metrics:
    """A CSV file with fixed columns, one of them "step". Rows are appended."""

    def __init__(self, path: Path, columns: Sequence[str]):
        self.path = path
        self.columns = list(columns)
        self.rows: list[dict[str, str]] = []

    def cut_after(self, step: int) -> None:
        """Read the file and remove the rows after `step`, which a resumed run computes again."""
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if _is_complete(row) and int(row["step"]) <= step]
            write_text(self.path, self._header() + "".join(self._line(row) for row in self.rows))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row. A missing column stays empty."""
        cells = {column: _cell(row.get(column)) for column in self.columns}
        header = "" if self.path.is_file() else self._header()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(header + self._line(cells))
        self.rows.append(cells)

    def _header(self) -> str:
        return ",".join(self.columns) + "\n"

    def _line(self, row: Mapping[str, str]) -> str:
        buffer = io.StringIO()
        csv.DictWriter(buffer, self.columns, lineterminator="\n", extrasaction="ignore").writerow(row)
        return buffer.getvalue()


def _is_complete(row: Mapping[str | None, Any]) -> bool:
    """Return False for a row that a crash cut short."""
    return None not in row and None not in row.values() and str(row.get("step")).isdigit()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
