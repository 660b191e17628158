"""Rows of metrics.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.runs.files import write_text


class Metrics:
    """metrics.csv: rows of the same columns, read back and cut at a step when a run is taken up again."""

    def __init__(self, path: Path, columns: Sequence[str]):
        self.path = path
        self.columns = list(columns)
        self.rows: list[dict[str, str]] = []

    def cut_after(self, step: int) -> None:
        """Reads the file and forgets the rows after this step, which are about to be made again."""
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if _is_whole(row) and int(row["step"]) <= step]
            write_text(self.path, self._header() + "".join(self._line(row) for row in self.rows))

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends one row; a missing column stays empty."""
        texts = {column: _cell(row.get(column)) for column in self.columns}
        new = not self.path.is_file()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write((self._header() if new else "") + self._line(texts))
        self.rows.append(texts)

    def _header(self) -> str:
        return ",".join(self.columns) + "\n"

    def _line(self, row: Mapping[str, str]) -> str:
        buffer = io.StringIO()
        csv.DictWriter(buffer, self.columns, lineterminator="\n", extrasaction="ignore").writerow(row)
        return buffer.getvalue()


def _is_whole(row: Mapping[str | None, Any]) -> bool:
    """Whether a row was written to its end: a power cut can leave a part of one."""
    return None not in row and None not in row.values() and str(row.get("step")).isdigit()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
