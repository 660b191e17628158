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
    """The processor time of a command, and its output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr == ""
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@pytest.mark.parametrize("task", TASKS)
def test_help_is_quick_and_reads_well(task: str) -> None:
    """Measured in turns, the least of each: other work on the machine makes processor time longer, never shorter."""
    spent: list[tuple[float, float]] = []
    shown = ""
    while not spent or min(ours for ours, _ in spent) > 1.3 * min(imports for _, imports in spent):
        assert len(spent) < 6, f"(--help, import torch) in seconds: {spent}"
        ours, shown = cpu_seconds(sys.executable, "-m", f"scripts.{task}", "--help")
        spent.append((ours, cpu_seconds(sys.executable, "-c", "import torch")[0]))
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
