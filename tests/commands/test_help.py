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


# Run each task in a fork of a process that has imported torch alone, and measure what --help takes beyond that.
HELPS = """
import json, os, resource, runpy, sys, tempfile
import torch
used = resource.getrusage(resource.RUSAGE_SELF)
helps = {"torch": [used.ru_utime + used.ru_stime, ""]}
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
        helps[task] = [used.ru_utime + used.ru_stime, said.read()]
print(json.dumps(helps))
"""


def all_helps(tasks: Sequence[str]) -> dict[str, tuple[float, str]]:
    """Return processor seconds and text of each task's help, and the seconds of importing torch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    words = [sys.executable, "-c", HELPS, *tasks]
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_help_is_quick_and_reads_well() -> None:
    """The shortest of several times counts: other work on the machine makes processor time longer."""
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


def test_help_and_mistakes_import_no_torch(tmp_path: Path) -> None:
    """A module in the place of torch ends the process. Of a run, only its status and config are read."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')", encoding="utf-8")
    (run := tmp_path / "runs" / "20260208_143052-vae-digits").mkdir(parents=True)
    (run / "status.json").write_text('{"task": "train_vae", "dataset": "digits"}', encoding="utf-8")
    (run / "config.txt").write_text("dataset: digits\ndata_root: null\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "EXPERIMENTS_DIR": str(tmp_path / "runs")}

    def say(task: str, *words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", f"scripts.{task}", *words]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    training = "train_ddpm", "train_latent", "train_vae", "train_classifier"
    sampling = "generate", "image_to_image", "inpaint", "interpolate", "visualize_guidance", "visualize_distribution"
    for task in (*training, *sampling, "evaluate", "reconstruct", "encode_dataset"):
        code, shown = say(task, "--help")
        assert code == 0 and f"usage: {task}" in shown
        assert say(task, "--bath_size", "3")[1].startswith("error: Unrecognized options: --bath_size, 3; did you mean")
    assert say("train_flow", "--batch_size", "0") == (2, "error: --batch_size 0: must be at least 1\n")
    assert say("visualize_schedules", "--timesteps", "-1") == (2, "error: --timesteps -1: must be at least 0\n")
    assert say("train_flow", "--network", "dit", "--network.patch_size", "four")[0] == 2
    assert say("train_flow", "--resume", str(run))[1].startswith(f"error: {run} is a run of train_vae")


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
