"""Progress: a bar on a terminal, not a byte elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import data

PROGRAM = """
from models.progress import progress
with progress("reading [red].zip", 10) as advance:
    for _ in range(10):
        advance(1)
"""


def run(stderr: int) -> bytes:
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(data.__file__).parent.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        check=True,
        timeout=60,
    ).stdout


def test_a_bar_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    assert run(theirs) == b""
    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert b"reading [red].zip" in shown and b"10/10" in shown


def test_nothing_elsewhere(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        assert run(log.fileno()) == b""
    assert (tmp_path / "log").read_bytes() == b""
