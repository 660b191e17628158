"""Progress bar: shown on a terminal by rank 0 only, below the lines that are printed meanwhile."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import models

PROGRAM = """
import sys
from models.progress import progress
with progress("reading [red].zip", 10) as advance:
    for number in range(10):
        advance(1, f"file {number}.zip" if number == 9 else None)
    print("a [line]", file=sys.stderr)
"""


def run(stderr: int, **variables: str) -> bytes:
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", **variables}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(models.__file__).parent.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        check=True,
        timeout=60,
    ).stdout


def on_terminal(**variables: str) -> bytes:
    ours, theirs = pty.openpty()
    assert run(theirs, **variables) == b""
    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    return shown


def test_a_bar_on_a_terminal() -> None:
    shown = on_terminal()
    assert b"reading [red].zip" in shown and b"file 9.zip" in shown and b"10/10" in shown
    assert b"a [line]" in shown


def test_no_bar_on_other_ranks() -> None:
    assert on_terminal(TORCHELASTIC_RUN_ID="job", RANK="1", WORLD_SIZE="2").strip() == b"a [line]"


def test_nothing_elsewhere(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        assert run(log.fileno()) == b""
    assert (tmp_path / "log").read_bytes() == b"a [line]\n"
