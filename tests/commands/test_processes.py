"""Several ranks give the same weights and files as one process, and one run folder that says how it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from models import distributed, processes
from models.runs import checkpoints
from tests.commands.fake_repository import eventually
from tests.commands.tasks import REPOSITORY, TINY, Ended, run_child, run_here, start_child, start_several, status_of
from tests.data.own_images import png

pytestmark = pytest.mark.slow

STEPS = 20
TIMEOUT = 60.0
EXACT = (
    *TINY,
    *("--device", "cpu", "--batch_size", "64", "--max_steps", STEPS, "--label_drop", "0.3", "--ema", "0.2"),
    *("--eval_every", "0.5", "--sample_every", "0.5", "--log_every", "4"),
)


def start(world_size: int, task: str, *arguments: object) -> subprocess.Popen[str]:
    if world_size == 1:
        return start_child(task, *arguments)
    return start_several(world_size, f"scripts.{task}", *arguments)


def ended(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=300)
    return Ended(process.returncode, out, err)


def last_tensors(folder: Path) -> dict[str, Tensor]:
    return checkpoints.load_checkpoint(checkpoints.resolve_checkpoint(folder))[0]


def distance(one: Path, other: Path) -> float:
    """Return the norm of the difference of all weights and EMA weights, divided by their norm."""
    tensors, others = last_tensors(one), last_tensors(other)
    assert tensors.keys() == others.keys()
    keys = [key for key in tensors if key.startswith(("network.", "ema."))]
    differences = torch.cat([(tensors[key].double() - others[key].double()).flatten() for key in keys])
    return (differences.norm() / torch.cat([tensors[key].double().flatten() for key in keys]).norm()).item()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def alone(runs: Path) -> Path:
    """Run of one process in float64, each batch accumulated in four parts."""
    return run_child(
        "train_flow", "--experiments_dir", runs, *EXACT, "--precision", "float64", "--accumulate", "4"
    ).folder


def test_two_ranks_train_like_one(runs: Path, alone: Path) -> None:
    """This includes accumulation, label drop, EMA, evaluations and sheets."""
    flags = ("--experiments_dir", runs, *EXACT, "--accumulate", "2")
    together = ended(start(2, "train_flow", *flags, "--precision", "float64")).folder
    assert distance(alone, together) < 1e-8
    assert (last_tensors(alone)["gathered"] - last_tensors(together)["gathered"]).abs().max() < 1e-8
    assert status_of(together)["state"] == "finished"
    for name in ("epoch_samples", "final_samples", "metrics.csv"):
        assert (together / name).exists()
    logs = [(folder / "training_log.txt").read_text().splitlines() for folder in (together, alone)]
    assert len(logs[0]) == len(logs[1])


def test_killed_and_resumed_with_another_world_size(runs: Path, alone: Path) -> None:
    flags = (*EXACT, "--accumulate", 4, "--precision", "float64", "--checkpoint_every", "0.2", "--name", "killed")
    process = start(1, "train_flow", "--experiments_dir", runs, *flags)
    assert eventually(lambda: list(runs.glob("*-killed/checkpoints/last")), TIMEOUT)
    for pid in (*descendants(process.pid), process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    (folder,) = runs.glob("*-killed")
    reached = checkpoints.load_newest(folder)[1]["step"]
    again = ended(start(2, "train_flow", "--experiments_dir", runs, "--resume", folder))
    assert again.folder == folder
    assert reached < STEPS and f"resumed at step {reached}" in (folder / "training_log.txt").read_text()
    assert distance(alone, folder) < 1e-8


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [descendant for child in map(int, children) for descendant in (child, *descendants(child))]


def test_shared_generation_writes_the_same_files(
    alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Use more batches than ranks, with a short last batch."""
    flags = ("--run", alone, "--device", "cpu", "--num_samples", 100, "--batch_size", 16, "--steps", 3, "--save_images")
    folders = [tmp_path / "one", tmp_path / "two"]
    assert run_here("generate", *flags, "--out", folders[0], capsys=capsys).code == 0
    assert ended(start(2, "generate", *flags, "--out", folders[1])).folder == folders[1]
    names = [{str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()} for top in folders]
    assert names[0] == names[1] and len(names[0]) > 100
    for name in names[0] - {"config.txt", "timing.txt"}:  # these hold the folder and the seconds
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_shared_evaluation_gives_the_same_report(
    alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--run", alone, "--device", "cpu", "--num_images", 150, "--batch_size", 32)
    assert run_here("evaluate", *flags, "--out", tmp_path / "one", capsys=capsys).code == 0
    assert ended(start(2, "evaluate", *flags, "--out", tmp_path / "two")).code == 0
    reports = [next((tmp_path / name).glob("*.json")).read_text().splitlines() for name in ("one", "two")]
    one, two = ([line for line in report if '"seconds' not in line] for report in reports)
    assert one == two


@pytest.mark.parametrize("how", ["raised", "killed"])
def test_the_run_ends_when_a_rank_fails(how: str, tmp_path: Path) -> None:
    task = (how, "train_flow", "--experiments_dir", tmp_path, *EXACT)
    failed = ended(start_several(2, "tests.commands.failing", *task))
    assert failed.code == (1 if how == "raised" else 128 + signal.SIGKILL)
    folder = Path(failed.out.strip())
    status, log = status_of(folder), (folder / "training_log.txt").read_text()
    assert status["state"] == "failed"
    if how == "raised":
        assert status["reason"] == "in process 1 of 2: RuntimeError: the fifth step is too much"
        assert "in failing_step" in log and log.count("Traceback") == 1
    else:
        assert "onnection" in status["reason"] and "Traceback" in log


@pytest.mark.parametrize(
    ("ends", "first"),
    [
        ([(2, 0), (-signal.SIGTERM, 0)], 2),
        ([(-signal.SIGTERM, 0), (2, 0)], 2),
        ([(1, 0), (-signal.SIGKILL, 0)], -signal.SIGKILL),
        ([(1, 0), (-signal.SIGSEGV, 1)], -signal.SIGSEGV),
        ([(1, 0), (-signal.SIGKILL, 120)], 1),
        ([(-signal.SIGTERM, 9), (1, 3)], 1),
    ],
)
def test_the_first_failure_is_the_cause(ends: list[tuple[int, int]], first: int) -> None:
    """Torchrun itself signals the other ranks in the last two cases."""
    failures = [ProcessFailure(rank, 0, code, "") for rank, (code, _) in enumerate(ends)]
    for failure, (_, stamp) in zip(failures, ends, strict=True):
        failure.timestamp = stamp
    assert distributed.first_failure(failures).exitcode == first


def test_an_error_is_printed_once(tmp_path: Path) -> None:
    """Rank 0 alone finds this error, while the others wait for it."""
    refused = ended(start(2, "train_flow", "--experiments_dir", tmp_path, "--name", "a/b"))
    assert refused.code == 2 and refused.out == "", refused.err
    assert len(refused.err.splitlines()) == 1 and "name 'a/b'" in refused.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("task", "flags", "words"),
    [
        ("train_flow", ("--batch_size", "2", "--accumulate", "2"), "one image for each process"),
        ("train_flow", ("--coupling", "optimal"), "use one process"),
        ("reconstruct", (), "GPUS and PROCS"),
        ("evaluate", ("--compare", "a", "b"), "GPUS and PROCS"),
    ],
)
def test_options_and_tasks_that_take_one_process(
    task: str, flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "init_process_group", lambda device: None)
    monkeypatch.setattr(distributed, "run_on_rank_zero", lambda work: work())
    monkeypatch.setenv("MEMORY_LIMIT", "1")  # otherwise the task would set it for later tests
    monkeypatch.setattr(os, "_exit", sys.exit)
    refused = run_here(task, *flags, capsys=capsys)
    assert refused.code == 2 and words in refused.err and len(refused.err.splitlines()) == 1


def test_stop_saves_a_checkpoint(tmp_path: Path) -> None:
    """Start and stop with make, as on a server, so that the launcher's process receives the signal."""
    environment = {**os.environ, "EXPERIMENTS_DIR": str(tmp_path), "LAUNCH_WITH": "nohup", "LAUNCH_WAIT": "60"}
    environment |= {"GPUS": "0", "PROCS": "2", "OMP_NUM_THREADS": "1"}
    flags = (*TINY, "--batch_size", 64, "--max_steps", 10**6, "--eval_every", 0, "--sample_every", 0)
    words = " ".join(map(str, flags))
    make = ["make", "-s", "-C", str(REPOSITORY)]
    started = subprocess.run([*make, "train_flow", f"ARGS={words}"], env=environment, capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    (folder,) = (path.parent for path in tmp_path.glob("*/status.json"))
    stepped = eventually(lambda: "step" in (folder / "status.json").read_text(), TIMEOUT)
    stopped = subprocess.run([*make, "stop", "ARGS=--all"], env=environment, capture_output=True, text=True)
    assert stepped
    assert "has ended with exit code 130" in stopped.stderr, stopped.stderr
    assert status_of(folder)["state"] == "interrupted"
    assert checkpoints.load_newest(folder)[1]["step"] == status_of(folder)["step"] > 0


def test_signals_to_all_processes_save_a_checkpoint(tmp_path: Path) -> None:
    """Slurm and systemd signal every process, and torchrun then signals its ranks again."""
    words = (*TINY, "--device", "cpu", "--batch_size", 64, "--max_steps", 10**6, "--eval_every", 0, "--sample_every", 0)
    process = start_several(2, "scripts.train_flow", "--experiments_dir", tmp_path, *words)
    try:
        assert eventually(lambda: [path for path in tmp_path.glob("*/status.json") if "step" in path.read_text()], 90)
        launcher = psutil.Process(process.pid)
        for receiver in [launcher, *launcher.children(recursive=True)] * 2:
            with contextlib.suppress(psutil.NoSuchProcess):
                receiver.send_signal(signal.SIGTERM)
            time.sleep(0.02)
        assert ended(process).code == 128 + signal.SIGTERM
    finally:
        process.kill()
    (folder,) = (path.parent for path in tmp_path.glob("*/status.json"))
    assert status_of(folder)["state"] == "interrupted"
    assert checkpoints.load_newest(folder)[1]["step"] == status_of(folder)["step"] > 0


def test_pictures_that_any_rank_cannot_decode_are_in_the_log(tmp_path: Path) -> None:
    top, generator = tmp_path / "mine", np.random.default_rng(0)
    for number in range(80):
        png(
            top / "ant dog".split()[number % 2] / f"{number:02}.png", generator.integers(0, 256, (8, 8, 3)).astype("u1")
        )
    broken = [f"ant/{number:02}.png" for number in range(0, 12, 2)]
    for name in broken:
        (top / name).write_bytes(b"cut")
    words = (*TINY, "--device", "cpu", "--dataset", "folder", "--dataset.path", top, "--memory_limit", 0)
    words += ("--dataset.test_share", 0.1, "--batch_size", 32, "--max_steps", 6, "--workers", 0)
    done = ended(start(2, "train_flow", "--experiments_dir", tmp_path / "runs", *words))
    assert done.code == 0, done.err
    log = (done.folder / "training_log.txt").read_text()
    reported = [name for name in broken if f"{name} cannot be used" in log]
    assert len(reported) >= 4 and log.count("cannot be used") == len(reported)  # the others are test images
