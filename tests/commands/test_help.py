"""--help: quick, on standard output, and complete."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from models.variants import NETWORKS
from tests.commands.tasks import REPOSITORY, run_here

TASKS = sorted(
    path.stem
    for path in (REPOSITORY / "scripts").glob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)


# Run commands in forks of a process that has imported one module, and print exit code, outputs, and processor seconds.
FORKS = """
import importlib, json, os, resource, runpy, sys, tempfile
importlib.import_module(sys.argv[1])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([0, "", "", used.ru_utime + used.ru_stime]))
for task, *words in json.loads(sys.argv[2]):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        if (child := os.fork()) == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv, code = [task, *words], 1
            try:
                runpy.run_module(f"scripts.{task}", run_name="__main__", alter_sys=True)
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else print(ended.code, file=sys.stderr) or 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status, used = os.wait4(child, 0)
        out.seek(0)
        err.seek(0)
        print(json.dumps([os.waitstatus_to_exitcode(status), out.read(), err.read(), used.ru_utime + used.ru_stime]))
"""


class Forked(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float


def run_forks(imported: str, commands: Sequence[Sequence[str]], **environment: str) -> list[Forked]:
    """Run each command (task and words) after a module has been imported. The first result is the import itself."""
    words = [sys.executable, "-c", FORKS, imported, json.dumps(commands)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", **environment}
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True)
    return [Forked(*json.loads(line)) for line in done.stdout.splitlines()]


def check_text(shown: str, task: str) -> None:
    """80 columns, flags with underscores alone, values without None, and paragraphs whose lines are full."""
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80, task
    assert re.findall(r"--[a-z]+-[a-z]\S*", shown) == [] and "None" not in shown, task
    for line, following in pairwise(lines):
        indent = len(following) - len(following.lstrip("│ "))
        if following.startswith("│    ") and line[indent - 2 : indent] == "  " and line[indent] != " ":
            word = following.split()[1]
            assert len(line.rstrip("│ ")) + 1 + len(word) > 78, f"{task}: {word} begins a line too early: {line}"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            ("train_flow", "--recipe", "mnist"),
            ("recipe mnist", "(default: muon)", "(default: 10.0)", "(default: mnist)"),
        ),
        (("train_flow", "--recipe", "cifar10"), ("recipe cifar10", "--network.width INT", "(default: 64)")),
        (("train_latent", "--recipe", "latent_ddpm_mnist"), ("latent_ddpm_mnist", "(default: 1000)", "(default: eps)")),
        (("train_vae", "--recipe", "vae_mnist"), ("recipe vae_mnist", "(default: 3.5)")),
        (("train_flow", "--recipe", "mnist", "--lr", "7"), ("(default: 0.005)",)),
    ],
    ids=" ".join,
)
def test_help_shows_the_defaults_of_the_recipe(words, shown, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_here(*words, "--help", capsys=capsys)
    assert ended.code == 0
    check_text(ended.out, words[0])
    for text in shown:
        assert text in " ".join(ended.out.split()), text


def test_help_shows_the_settings_of_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("lr: 0.0123\nnetwork: dit\nnetwork.depth: 17\n", encoding="utf-8")
    shown = run_here("train_flow", "--config", tmp_path / "mine.txt", "--help", capsys=capsys).out
    assert "(default: 0.0123)" in shown and "(default: 17)" in shown and "mine.txt" in shown


@pytest.mark.slow
def test_help_is_quick_and_reads_well() -> None:
    """The shortest of several times counts: other work on the machine makes processor time longer."""
    slow: Sequence[str] = TASKS
    for _ in range(4):
        imported, *helps = run_forks("torch", [(task, "--help") for task in slow])
        for task, shown in zip(slow, helps, strict=True):
            assert (shown.code, shown.err) == (0, ""), shown.err
            assert shown.out.startswith(f"usage: {task}") and "\x1b[" not in shown.out, shown.out
            check_text(shown.out, task)
        slow = [task for task, shown in zip(slow, helps, strict=True) if shown.seconds > 0.3 * imported.seconds]
        if not slow:
            return
    pytest.fail(f"import torch takes {imported.seconds:.2f} s; the help of these takes too long: {slow}")


@pytest.mark.slow
def test_help_and_mistakes_import_no_torch(tmp_path: Path) -> None:
    """A module in the place of torch ends the process. Only text files of a run are read."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')", encoding="utf-8")
    (run := tmp_path / "runs" / "20260208_143052-vae-digits").mkdir(parents=True)
    (run / "status.json").write_text('{"task": "train_vae", "dataset": "digits"}', encoding="utf-8")
    (run / "config.txt").write_text("dataset: digits\ndata_root: null\n", encoding="utf-8")
    (flow := tmp_path / "runs" / "20260208_143053-flow-digits" / "checkpoints").mkdir(parents=True)
    (flow.parent / "status.json").write_text('{"task": "train_flow", "dataset": "digits"}', encoding="utf-8")
    (flow / "step_00000001.yaml").write_text("denoiser: {class_names: [cat, dog]}\n", encoding="utf-8")
    training = "train_ddpm", "train_latent", "train_vae", "train_classifier"
    sampling = "generate", "image_to_image", "inpaint", "interpolate", "visualize_guidance", "visualize_distribution"
    tasks = (*training, *sampling, "evaluate", "reconstruct", "encode_dataset")
    mistakes = {
        ("train_flow", "--batch_size", "0"): "error: --batch_size 0: must be at least 1\n",
        ("visualize_schedules", "--timesteps", "-1"): "error: --timesteps -1: must be at least 0\n",
        ("train_flow", "--network", "dit", "--network.patch_size", "four"): "error: ",
        ("train_flow", "--resume", str(run)): f"error: {run} is a run of train_vae",
        ("train_flow", "--loss", "l3"): "error: --loss 'l3': choose from l2, ",
        ("train_flow", "--init_from", "nosuch"): "error: no run 'nosuch'",
        ("train_flow", "--dataset", "folder", "--dataset.path", "/nosuch"): "error: --dataset.path /nosuch: does not",
        ("train_latent", "--autoencoder", "nosuch"): "error: no run 'nosuch'",
        ("generate", "--weights", "both"): "error: --weights 'both': choose from ema, raw\n",
        ("generate", "--checkpoint", "no.safetensors"): "error: no checkpoint no.safetensors\n",
        ("generate", "--autoguidance", "nosuch"): "error: no run 'nosuch'",
        ("visualize_guidance", "--run", "nosuch"): "error: no run 'nosuch'",
        ("inpaint", "--labels", "owl"): "error: --labels owl: ",
        ("evaluate", "--samples", "no.npz"): "error: --samples no.npz: no such file or folder\n",
    }
    mistakes |= {
        (task, "--bath_size", "3"): "error: Unrecognized options: --bath_size, 3; did you mean" for task in tasks
    }
    commands = [*((task, "--help") for task in tasks), *mistakes]
    places = {"PYTHONPATH": str(tmp_path), "EXPERIMENTS_DIR": str(tmp_path / "runs")}
    _, *ended = run_forks("scripts.cli.command", commands, **places)
    for task, shown in zip(tasks, ended, strict=False):
        assert shown.code == 0 and shown.out.startswith(f"usage: {task}"), shown.err
    for said, shown in zip(mistakes.values(), ended[len(tasks) :], strict=True):
        assert (shown.code, shown.out) == (2, "") and shown.err.startswith(said), shown.err


@pytest.mark.parametrize("name", NETWORKS.names())
def test_every_option_of_every_network_is_a_documented_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_here("train_flow", "--network", name, "--help", capsys=capsys)
    assert ended.code == 0
    shown = ended.out
    for parameter in inspect.signature(NETWORKS.find(name)).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            assert re.search(rf"--network\.{parameter.name}\b", shown), parameter.name


def test_tasks_are_found() -> None:
    assert {"train_ddpm", "train_flow", "generate", "status", "bench", "visualize_schedules"} <= set(TASKS)
    assert all((REPOSITORY / "scripts" / f"{task}.py").is_file() for task in TASKS) and Path(REPOSITORY).is_dir()
