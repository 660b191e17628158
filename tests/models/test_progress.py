"""Progress by rank 0 only: a bar on a terminal, below the lines that are printed meanwhile, and lines elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

import models
from models import progress as module
from models.progress import progress

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
    assert b"reading [red].zip" in shown and b"file 9.zip" in shown and b"10 of 10" in shown
    assert b"a [line]" in shown


def test_no_bar_on_other_ranks() -> None:
    assert on_terminal(TORCHELASTIC_RUN_ID="job", RANK="1", WORLD_SIZE="2").strip() == b"a [line]"


def test_short_work_prints_no_lines(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        assert run(log.fileno()) == b""
    assert (tmp_path / "log").read_bytes() == b"a [line]\n"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Lines that were printed since the last call. One is printed every 0.05 s."""
    monkeypatch.setattr(module, "LINE_SECONDS", 0.05)
    monkeypatch.setattr(module, "_lines", module._Lines())
    return lambda: capsys.readouterr().err.splitlines()


def wait_for(lines, word: str) -> str:
    """The first new line with this word."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in lines():
            if word in line:
                return line
        time.sleep(0.01)
    raise AssertionError(f"no line with {word!r}")


def test_one_long_call_prints_its_time(lines) -> None:
    with progress("a map", None):
        assert wait_for(lines, "a map").startswith("a map: 0.")


@pytest.mark.parametrize(
    ("unit", "total", "amount", "text"),
    [
        ("items", 60_000, 2500, "2,500 of 60,000,"),
        ("bytes", 50e6, 12e6, "12 of 50 MB,"),
        ("percent", 1, 0.25, "25 %,"),
        ("items", 10, 11, "10 of 10,"),
    ],
)
def test_a_line_has_the_progress(unit: module.Unit, total: float, amount: float, text: str, lines) -> None:
    with progress("work", total, unit) as advance:
        advance(amount, "other work")
        assert text in wait_for(lines, "other work")


def test_titles_of_nested_work_follow_each_other(lines) -> None:
    with progress("pictures", None):
        with progress("images", 3) as advance:
            advance(2)
            assert wait_for(lines, "images").startswith("pictures: images: 2 of 3,")
        assert wait_for(lines, "pictures: 0.")


def test_work_with_lines_of_its_own_prints_none(lines) -> None:
    with progress("outer", None), progress("training", 1, lines=False):
        time.sleep(0.3)
        assert not [line for line in lines() if "training" in line]
        with progress("evaluation", None):
            assert wait_for(lines, "evaluation").startswith("outer: evaluation: ")


def test_many_short_works_are_not_silent(lines) -> None:
    started = time.monotonic()
    seen: list[str] = []
    while not seen and time.monotonic() < started + 60:
        with progress("a batch", None):
            time.sleep(0.01)
        seen += lines()
    assert "a batch" in seen[0]


def test_after_a_failure_nothing_more_is_printed(lines) -> None:
    with pytest.raises(KeyError), progress("work", None):
        raise KeyError
    lines()
    time.sleep(0.2)
    assert lines() == []
