"""--help: quick, on standard output, and complete."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from models.variants import NETWORKS
from tests.commands.tasks import REPOSITORY, run_here

TASKS = sorted(
    path.stem
    for path in (REPOSITORY / "scripts").glob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)


# Each task in a fork of a process that has only imported torch: what its --help takes beyond that.
HELPS = """
import json, os, resource, runpy, sys, tempfile
import torch
own = resource.getrusage(resource.RUSAGE_SELF)
found = {"torch": [own.ru_utime + own.ru_stime, ""]}
for task in sys.argv[1:]:
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        if (child := os.fork()) == 0:
            sys.argv = [task, "--help"]
            sys.stdout, sys.stderr, code = said, complained, 1
            try:
                runpy.run_module(f"scripts.{task}", run_name="__main__", alter_sys=True)
            except SystemExit as ended:
                code = ended.code
            finally:
                said.flush()
                complained.flush()
                os._exit(code)
        _, status, used = os.wait4(child, 0)
        said.seek(0)
        complained.seek(0)
        assert status == 0 and complained.read() == "", (task, status)
        found[task] = [used.ru_utime + used.ru_stime, said.read()]
print(json.dumps(found))
"""


def all_helps(tasks: Sequence[str]) -> dict[str, tuple[float, str]]:
    """The processor seconds and the text of each, and the seconds of importing torch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    words = [sys.executable, "-c", HELPS, *tasks]
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_help_is_quick_and_reads_well() -> None:
    """The least time of several: other work on the machine makes processor time longer, never shorter."""
    slow: Sequence[str] = TASKS
    for _ in range(4):
        helps = all_helps(slow)
        imports, _ = helps.pop("torch")
        for task, (_, shown) in helps.items():
            assert shown.startswith(f"usage: {task}") and "\x1b[" not in shown, shown
            assert max(len(line) for line in shown.splitlines()) <= 80, task
        slow = [task for task, (spent, _) in helps.items() if spent > 0.3 * imports]
        if not slow:
            return
    pytest.fail(f"import torch takes {imports:.2f} s, and the help {[(task, helps[task][0]) for task in slow]}")


@pytest.mark.parametrize("name", NETWORKS.names())
def test_every_option_of_every_network_is_a_documented_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_here("train_flow", "--network", name, "--help", capsys=capsys)
    assert ended.code == 0
    shown = ended.out
    for parameter in inspect.signature(NETWORKS.find(name)).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            flag = f"--network.{parameter.name.replace('_', '-')}"
            assert flag in shown, flag


def test_tasks_are_found() -> None:
    assert {"train_ddpm", "train_flow", "generate", "status", "bench", "visualize_schedules"} <= set(TASKS)
    assert all((REPOSITORY / "scripts" / f"{task}.py").is_file() for task in TASKS) and Path(REPOSITORY).is_dir()
