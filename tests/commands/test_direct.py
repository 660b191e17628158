"""A task started in another way than as a module of the environment ends in one line that says what to type."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.fake_repository import ROOT

TASKS = sorted(path.stem for path in (ROOT / "scripts").glob("[a-z]*.py"))


def run(*words: str, cwd: Path = ROOT) -> tuple[int, str]:
    """Run a command and return its exit code and its line on standard error."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.returncode, done.stderr.strip()


def typed(line: str) -> list[str]:
    """Return the command that a line says to type."""
    return shlex.split(line.split("; type: ", 1)[1])


@pytest.mark.parametrize("task", TASKS)
def test_a_file_names_its_module(task: str) -> None:
    code, line = run(sys.executable, f"scripts/{task}.py", "--name", "my run")
    assert code == 2
    assert line.startswith("error: tasks are modules, not files; type: ")
    assert typed(line) == [sys.executable, "-m", f"scripts.{task}", "--name", "my run"]


def test_a_file_from_another_folder(tmp_path: Path) -> None:
    code, line = run(sys.executable, os.path.relpath(ROOT / "scripts/status.py", tmp_path), cwd=tmp_path)
    assert (code, typed(line)) == (2, ["cd", str(ROOT), "&&", sys.executable, "-m", "scripts.status"])


@pytest.mark.parametrize("task", ["train_flow", "generate", "record"])
def test_an_interpreter_without_the_packages(task: str) -> None:
    """With -S, Python finds no installed package."""
    code, line = run(sys.executable, "-S", "-m", f"scripts.{task}", "--name", "my run")
    assert code == 2
    assert line.startswith(f"error: {sys.executable} has no package ")
    assert typed(line)[-5:] == [".venv/bin/python", "-m", f"scripts.{task}", "--name", "my run"]
    code, line = run(sys.executable, "-S", f"scripts/{task}.py")
    assert code == 2 and typed(line)[-3:] == [".venv/bin/python", "-m", f"scripts.{task}"]


def test_other_failures_keep_their_traceback(tmp_path: Path) -> None:
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    words = (sys.executable, "-m", "scripts.status")  # here `models` is missing, which is no package to install
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and done.stderr.rstrip().endswith("No module named 'models'")
