"""status.py: a truthful row for every run folder, in any state, on a terminal and in a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import socket
import struct
import subprocess
import sys
import termios
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scripts import status
from scripts.cli.next_steps import next_command
from tests.commands.fake_repository import ROOT
from tests.commands.tasks import run_here

NOW = datetime(2026, 2, 8, 12, tzinfo=UTC)


def write(experiments: Path, name: str, /, text: str | None = None, **fields: Any) -> None:
    content = {
        "state": "finished",
        "reason": "",
        "step": 1200,
        "progress": 1.0,
        "loss": 0.123456,
        "heartbeat": NOW.isoformat(timespec="seconds"),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "task": f"train_{name.split('-')[1]}",
        "dataset": name.split("-")[2],
    }
    (experiments / name).mkdir(parents=True)
    (experiments / name / "status.json").write_text(json.dumps(content | fields) if text is None else text)


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    folder = tmp_path / "experiments"
    fresh = datetime.now(UTC).isoformat(timespec="seconds")
    gone = subprocess.Popen(["true"])
    gone.wait()
    write(folder, "20260201_000000-flow-digits")
    write(folder, "20260202_000000-ddpm-mnist", state="running", progress=0.254, heartbeat=fresh)
    write(folder, "20260203_000000-ddpm-mnist", state="running", heartbeat=fresh, pid=gone.pid)
    write(folder, "20260204_000000-ddpm-mnist", state="running", host="elsewhere")
    (folder / "20260204_000000-ddpm-mnist" / "checkpoints").mkdir()
    (folder / "20260204_000000-ddpm-mnist" / "checkpoints" / "last").write_text("step_00001200.safetensors")
    write(folder, "20260205_000000-flow-emnist", state="failed", reason="the loss is\nnot finite", loss=float("nan"))
    write(folder, "20260206_000000-flow-emnist", state="interrupted", reason="SIGHUP", loss=None, progress=None)
    write(folder, "20260207_000000-flow-emnist", '{"state": "runn')
    write(folder, "20260208_000000-flow-emnist", "[]")
    write(folder, "20260209_000000-flow-emnist", step="many", loss=True, heartbeat=12, progress=[])
    (folder / ".launch" / "fake").mkdir(parents=True)
    (folder / "README.md").write_text("no run")
    return folder


@pytest.mark.parametrize("name", ["run", "two words", "größer & besser", "it's mine", 'a "b" $HOME `c` !d', "x;y"])
def test_the_next_command_is_whole(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name

    def words(task: str, state: str) -> list[str]:
        typed = shlex.split(next_command(folder, task, state))
        if typed[0] != "make":
            return typed
        assert len(typed) == 3 and typed[2].startswith("ARGS=")
        return [*typed[:2], *shlex.split(typed[2].removeprefix("ARGS="))]

    assert (
        words("train_flow", "finished")
        == words("train_latent", "finished")
        == ["make", "generate", "--run", str(folder)]
    )
    assert words("train_vae", "finished") == ["make", "encode_dataset", "--run", str(folder)]
    assert words("train_vae", "dead") == ["make", "train_vae", "--config", f"{folder}/config.txt"]
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last").touch()
    assert (
        words("train_ddpm", "dead")
        == words("train_ddpm", "interrupted")
        == ["make", "train_ddpm", "--resume", str(folder)]
    )
    assert words("train_flow", "running") == ["tail", "-f", f"{folder}/training_log.txt"]
    assert words("train_flow", "failed") == ["tail", "-n", "30", f"{folder}/training_log.txt"]


def test_rows_are_chosen_and_sorted(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(experiments, "20260210_000000-vae-mnist", step=7, loss=0.01)
    write(experiments, "20260211_000000-flow-mnist", step=2000, loss=0.4, heartbeat=datetime.now(UTC).isoformat())
    write(experiments, "20260212_000000-latent-mnist", step=5, loss=0.9)
    write(experiments, "20260213_000000-flow-digits", step=9, loss=0.2)
    for name, config in {
        "20260210_000000-vae-mnist": "kind: vae\nreconstruction: l2\n",
        "20260211_000000-flow-mnist": "space: pixels\nprediction: flow\nloss: l2\nweighting: uniform\n",
        "20260212_000000-latent-mnist": "space: latents\nprediction: eps\nloss: huber\nweighting: min_snr\n",
        "20260213_000000-flow-digits": "initial_noise: uniform\nprediction: flow\nloss: l2\n",
    }.items():
        (experiments / name / "config.txt").write_text(config)

    def days(*flags: str) -> list[int]:
        ended = run_here("status", "--experiments_dir", experiments, *flags, capsys=capsys)
        assert ended.code == 0
        return [int(re.findall(r"202602(\d\d)_", line)[0]) for line in ended.out.splitlines()[1:]]

    assert days("--dataset", "digits") == [13, 1]
    assert days("--dataset", "mnist", "--state", "finished") == [12, 11, 10]
    assert days("--task", "train_vae", "train_latent") == [12, 10]
    assert days("--state", "dead", "failed") == [5, 4, 3]
    assert days("--state", "unreadable") == [8, 7]
    assert days("--sort", "step")[0] == 11 and days("--sort", "step")[-6:-3] == [13, 10, 12]
    assert days("--sort", "loss")[:4] == [13, 11, 12, 10]
    assert days("--sort", "age")[0] == 11
    assert days("--sort", "state")[:3] == [4, 3, 5]
    shown = run_here("status", "--experiments_dir", experiments, "--state", "finished", capsys=capsys).out
    for kind in ("vae l2", "flow l2 ", "latents eps huber min_snr"):
        assert f" {kind} " in shown
    none = run_here("status", "--experiments_dir", experiments, "--dataset", "cifar", capsys=capsys)
    assert (none.code, none.out) == (0, "") and "data sets: digits, emnist, mnist" in none.err
    for words in (("--state", "broken"), ("--sort", "name"), ("--task", "flow"), ("--states", "dead")):
        wrong = run_here("status", *words, capsys=capsys)
        assert wrong.code == 2 and wrong.err.startswith("error: ") and len(wrong.err.splitlines()) == 1, wrong.err


def run(*flags: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.status", *flags]
    return subprocess.run(command, cwd=ROOT, text=True, check=False, **streams)


def test_a_row_tells_the_truth_about_each_run(experiments: Path) -> None:
    done = run("--experiments_dir", str(experiments), capture_output=True)
    newest = "20260209_000000-flow-emnist"
    command = f'make generate ARGS="--run {experiments / newest}"'
    assert (done.returncode, done.stderr) == (0, f"newest: {newest} (finished); next: {command}\n")
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["state", "step", "done", "loss", "value", "age", "folder"]
    cells = [line.split(None, 7) for line in lines]
    cells = [[*row[:3], *row[4:]] for row in cells if row[3] == "-"]  # they have no config
    assert [row[5][:8] for row in cells] == [f"2026020{day}" for day in range(9, 0, -1)]  # newest first
    states = ["finished", "unreadable", "unreadable", "interrupted", "failed", "dead", "dead", "running", "finished"]
    assert [row[0] for row in cells] == states
    assert cells[0][1:5] == ["-", "-", "-", "-"]
    folder = experiments / "20260206_000000-flow-emnist"
    again = f'SIGHUP; next: make train_flow ARGS="--config {folder}/config.txt"'
    assert cells[3][1:4] + cells[3][6:] == ["1200", "-", "-", again]
    log = experiments / "20260205_000000-flow-emnist" / "training_log.txt"
    assert cells[4][3:4] + cells[4][6:] == ["nan", f"the loss is not finite; next: tail -n 30 {log}"]
    resume = f'make train_ddpm ARGS="--resume {experiments}/20260204_000000-ddpm-mnist"'
    assert cells[5][6] == f"the process ended without writing its state; next: {resume}"
    assert cells[7][1:4] == ["1200", "25%", "0.1235"]
    assert cells[7][4] in ("0s", "1s", "2s", "3s", "4s", "5s")
    assert len(cells[8]) == 6


def test_columns_are_aligned_and_nothing_is_cut(experiments: Path) -> None:
    long = "20260210_000000-flow-mnist-" + "x" * 100
    write(experiments, long)
    lines = run("--experiments_dir", str(experiments), capture_output=True).stdout.splitlines()
    assert {line.index("2026") for line in lines[1:]} == {lines[0].index("folder")}
    assert long in lines[1]


def test_a_terminal_of_80_columns_holds_it(experiments: Path) -> None:
    write(experiments, "20260210_000000-flow-mnist-" + "x" * 60)
    terminal, inside = os.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 80, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    done = run("--experiments_dir", str(experiments), stdout=inside, stderr=inside, env=env | {"TERM": "xterm"})
    os.close(inside)
    shown = b""
    while chunk := read(terminal):
        shown += chunk
    assert done.returncode == 0
    assert b"\x1b[" in shown
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()
    commands = [line for line in lines if "next: " in line]
    assert [line.split()[0] for line in commands] == ["interrupted", "failed", "dead", "dead", "newest:"]
    lines = [line for line in lines if line not in commands]
    assert max(map(len, lines)) <= 80
    start = lines[0].index("folder")
    text = "".join(line[start:].strip() for line in lines)
    assert "20260210_000000-flow-mnist-" + "x" * 60 in text
    assert all(f"2026020{day}_000000" in text for day in range(1, 10))


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux raises it once the last writer has gone
        return b""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-30, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (172_800, "2d"),
        (8.64e6, "100d"),
    ],
)
def test_ages_have_one_unit(seconds: float, text: str) -> None:
    assert status.age((NOW - timedelta(seconds=seconds)).isoformat(), NOW) == text


def test_a_time_without_a_zone_or_no_time_has_no_age() -> None:
    assert status.age("2026-02-08T12:00:00", NOW) == "-"
    assert status.age(None, NOW) == "-"


def test_no_runs_is_said_and_no_error(tmp_path: Path) -> None:
    done = run("--experiments-dir", str(tmp_path / "nothing"), capture_output=True)
    assert done.returncode == 0
    assert done.stdout == ""
    assert "make demo" in done.stderr
    env = os.environ | {"EXPERIMENTS_DIR": str(tmp_path / "elsewhere")}
    assert "elsewhere" in run(env=env, capture_output=True).stderr


def test_an_unknown_flag_is_the_users_mistake(tmp_path: Path) -> None:
    done = run("--experiment_folder", str(tmp_path), capture_output=True)
    assert done.returncode == 2
    assert "--experiment_folder" in done.stderr.splitlines()[-1]


def test_a_reader_that_leaves_early_is_no_error(experiments: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run("--experiments_dir", str(experiments), stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.stderr == ""


def test_it_imports_no_torch() -> None:
    code = "import sys, scripts.status; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
