"""--help: quick, on standard output, and complete."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from models import networks
from tests.commands.tasks import REPOSITORY

TASKS = sorted(
    path.stem
    for path in (REPOSITORY / "scripts").glob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)


def cpu_seconds(*command: str) -> tuple[float, str]:
    """The processor time of a command, the less of two since other work on the machine does not count; its output."""
    spent, shown = [], ""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.stderr == ""
        shown = done.stdout
    return min(spent), shown


@pytest.fixture(scope="module")
def torch_import() -> float:
    return cpu_seconds(sys.executable, "-c", "import torch")[0]


@pytest.mark.parametrize("task", TASKS)
def test_help_is_quick_and_reads_well(task: str, torch_import: float) -> None:
    seconds, shown = cpu_seconds(sys.executable, "-m", f"scripts.{task}", "--help")
    assert seconds <= 1.3 * torch_import
    assert shown.startswith(f"usage: {task}") and "\x1b[" not in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


@pytest.mark.parametrize("name", networks.names())
def test_every_option_of_every_network_is_a_documented_flag(name: str) -> None:
    import inspect

    shown = subprocess.run(
        [sys.executable, "-m", "scripts.train_flow", "--network", name, "--help"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for parameter in inspect.signature(networks.find(name)).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            flag = f"--network.{parameter.name.replace('_', '-')}"
            assert flag in shown, flag


def test_tasks_are_found() -> None:
    assert {"train_ddpm", "train_flow", "generate", "status", "bench", "visualize_schedules"} <= set(TASKS)
    assert all((REPOSITORY / "scripts" / f"{task}.py").is_file() for task in TASKS) and Path(REPOSITORY).is_dir()
