"""Tests of interrupted runs: stopped, killed, or without disk space. Their status is right, and they can be resumed."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.runs import checkpoints
from models.runs.status import liveness, read_status
from tests.commands.fake_repository import eventually
from tests.commands.tasks import REPOSITORY, TINY, run_child, run_here, start_child, status_of, weights_hash

pytestmark = pytest.mark.slow

# A run of about 0.02 s a step, so that a signal arrives during the training. It uses all that draws random numbers.
LONG = (
    *TINY,
    *("--max_steps", "100", "--network.dropout", "0.2", "--accumulate", "2", "--label_drop", "0.3"),
    *("--checkpoint_every", "0.05", "--keep_checkpoints", "0", "--eval_every", "0.3", "--lr", "1e-3"),
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the hash of the final weights of the run without an interruption."""
    return weights_hash(run_child("train_flow", *LONG, "--experiments_dir", tmp_path_factory.mktemp("runs")).folder)


def wait_for_step(process: subprocess.Popen[str], runs: Path, step: int) -> Path:
    """Wait until a run has a checkpoint at the step or later, and return its folder."""
    for _ in range(6000):
        for run in runs.glob("*-flow-*"):
            saved = checkpoints.list_checkpoints(run / "checkpoints")
            if saved and int(saved[-1].stem.removeprefix("step_")) >= step:
                return run
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint at step {step}")


def test_a_ctrl_c_before_the_task_has_been_imported_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = start_child("train_flow", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and err == ""


def test_killed_at_random_steps_and_resumed_equals_uninterrupted(tmp_path: Path, uninterrupted: str) -> None:
    chance = random.Random(0)
    process = start_child("train_flow", *LONG, "--experiments_dir", tmp_path)
    run = wait_for_step(process, tmp_path, chance.randrange(4, 50))
    time.sleep(chance.random() * 0.2)
    process.kill()
    process.communicate()
    assert status_of(run)["state"] == "running" and liveness(read_status(run)) == "dead"
    ended = run_child("train_flow", *LONG, "--experiments_dir", tmp_path, "--resume", "latest")
    assert ended.folder == run and "resumed at step" in ended.err
    assert weights_hash(run) == uninterrupted
    steps = [line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == sorted(set(steps), key=int)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_signal_saves_marks_and_exits(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = start_child("train_flow", *LONG, "--experiments_dir", tmp_path)
    run = wait_for_step(process, tmp_path, 4)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    status = status_of(run)
    assert status["state"] == "interrupted" and status["reason"] == number.name
    assert checkpoints.resolve_checkpoint(run).stem == f"step_{status['step']:08d}"


def test_a_crash_in_the_middle_of_a_checkpoint_falls_back_to_the_one_before(tmp_path: Path, capsys) -> None:
    words = (*TINY, "--checkpoint_every", "0.01", "--keep_checkpoints", "0", "--experiments_dir", tmp_path)
    run = run_here("train_flow", *words, capsys=capsys).folder
    whole = weights_hash(run)
    newest = checkpoints.list_checkpoints(run / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    ended = run_here("train_flow", *words, "--resume", run, capsys=capsys)
    assert "resumed at step 5" in ended.err
    assert weights_hash(run) == whole


def test_a_gradient_that_is_not_finite_ends_the_run_before_the_weights_change(tmp_path: Path) -> None:
    words = ("--lr", "1e30", "--warmup_steps", "0", "--clip", "0", "--checkpoint_every", "0.01")
    ended = run_child("train_flow", *TINY, *words, "--max_steps", "100", "--experiments_dir", tmp_path)
    assert ended.code == 1 and "FloatingPointError" in ended.err
    (run,) = tmp_path.iterdir()
    status = status_of(run)
    assert status["state"] == "failed" and "not finite" in status["reason"]
    tensors, _ = checkpoints.load_checkpoint(checkpoints.resolve_checkpoint(run))
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert "Traceback" in (run / "training_log.txt").read_text()


def test_a_full_disk_marks_the_run_failed_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """Files are limited to 60 kB. The small files of a run are below the limit, its checkpoint is above."""

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    ended = run_child("train_flow", *TINY, "--experiments_dir", tmp_path, preexec_fn=small_files)
    assert ended.code == 1 and "File too large" in ended.err
    (run,) = tmp_path.iterdir()
    assert status_of(run)["state"] == "failed" and "File too large" in status_of(run)["reason"]
    assert list((run / "checkpoints").iterdir()) == []


def test_a_removed_folder_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    process = start_child("train_flow", *LONG, "--max_steps", "100000", "--experiments_dir", tmp_path)
    run = wait_for_step(process, tmp_path, 4)
    shutil.rmtree(run.rename(tmp_path / "removed"))  # renamed first, since the run is still writing to it
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "No such file or directory" in err
    assert not run.exists()


def test_a_running_run_is_not_resumed(tmp_path: Path, capsys) -> None:
    process = start_child("train_flow", *LONG, "--max_steps", "100000", "--experiments_dir", tmp_path)
    try:
        run = wait_for_step(process, tmp_path, 4)
        ended = run_here("train_flow", *LONG, "--max_steps", "100000", "--resume", run, capsys=capsys)
        assert ended.code == 2 and "still running" in ended.err
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def screens() -> Iterator[str]:
    """A separate folder for sockets. Its name is short, since the system limits the length of socket paths."""
    with tempfile.TemporaryDirectory(prefix="sockets-") as folder:
        yield folder


@pytest.mark.skipif(shutil.which("screen") is None, reason="screen is not installed")
def test_closing_a_real_screen_leaves_a_resumable_run(tmp_path: Path, screens: str, uninterrupted: str) -> None:
    environment = {"SCREENDIR": screens, "LAUNCH_WITH": "screen", "OMP_NUM_THREADS": "1"}
    runs = tmp_path / "runs"
    launched = subprocess.run(
        ["scripts/sh/launch.sh", "train_flow", *LONG, "--experiments_dir", str(runs)],
        cwd=REPOSITORY,
        env={**os.environ, **environment, "EXPERIMENTS_DIR": str(runs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    assert eventually(lambda: list(runs.glob("*-flow-*/checkpoints/step_*.yaml")), 300)
    (run,) = runs.glob("*-flow-*")
    session = status_of(run)["session"]
    assert session
    assert (run / "console.log").is_file()
    # This is what closing the window does: screen ends, and the kernel sends HUP to the task.
    subprocess.run(
        ["screen", "-S", session, "-X", "quit"],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
    )
    eventually(lambda: status_of(run)["state"] != "running", 120)
    assert status_of(run)["state"] == "interrupted" and status_of(run)["reason"] == "SIGHUP"
    ended = run_child("train_flow", *LONG, "--experiments_dir", runs, "--resume", run)
    assert ended.folder == run and weights_hash(run) == uninterrupted
