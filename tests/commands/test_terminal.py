"""terminal.py: a task survives the end of its terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from scripts.cli.terminal import outlast
from tests.commands.fake_repository import ROOT

WRITER = """
import sys
from scripts.cli.terminal import outlast_terminal
outlast_terminal()
assert sys.stderr.isatty()
print("before", file=sys.stderr, flush=True)
sys.stdin.readline()  # the other end of the terminal is closed meanwhile
for stream in (sys.stdout, sys.stderr):
    print("after", file=stream, flush=True)
open(sys.argv[1], "w").write("survived")
"""


def test_what_a_closed_terminal_cannot_show_is_dropped(tmp_path: Path) -> None:
    terminal, inside = os.openpty()
    result = tmp_path / "result"
    command = [sys.executable, "-c", WRITER, str(result)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=inside, stderr=inside)
    os.close(inside)
    assert os.read(terminal, 100) == b"before\r\n"
    os.close(terminal)
    process.communicate(b"\n", timeout=20)
    assert process.returncode == 0
    assert result.read_text() == "survived"


def test_files_and_pipes_are_left_as_they_are() -> None:
    stream = io.StringIO()
    assert outlast(stream) is stream
    with tempfile.TemporaryFile("w") as file:
        assert outlast(file) is file


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_other_failures_are_still_raised() -> None:
    code = (
        "import os; from scripts.cli.terminal import _Terminal;"
        "_Terminal(os.open('/dev/full', os.O_WRONLY), 'w').write(b'x')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr


def test_a_mistake_is_one_plain_line_on_a_terminal_too() -> None:
    terminal, inside = os.openpty()
    command = [sys.executable, "-m", "scripts.generate", "--bath_size", "3"]
    done = subprocess.run(
        command, cwd=ROOT, stdout=inside, stderr=inside, env=os.environ | {"TERM": "xterm"}, check=False
    )
    os.close(inside)
    assert done.returncode == 2
    expected = "error: Unrecognized options: --bath_size, 3; did you mean --batch_size?"
    assert os.read(terminal, 4096).decode().splitlines()[0].startswith(expected)
    os.close(terminal)
