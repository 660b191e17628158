"""Run folders: their status is correct even after a kill, and their files are complete."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from models.errors import UserError
from models.runs import run as run_module
from models.runs.environment import VARIABLES, command, environment
from models.runs.lookup import find_runs, read_config
from models.runs.run import HEARTBEAT_SECONDS, Run
from models.runs.status import STALE_SECONDS, liveness, read_status


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "experiments"


@pytest.fixture
def running(folder: Path) -> Iterator[Run]:
    run = Run.create(folder, "train_ddpm", "mnist", None)
    yield run
    run.end("finished")


def ended_pid() -> int:
    """Return the id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def status_of(**fields: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"state": "running", "heartbeat": now, "pid": os.getpid(), "host": socket.gethostname(), **fields}


def test_a_process_knows_how_long_ago_it_began() -> None:
    code = "import time; time.sleep(0.5); from models.processes import process_age; print(process_age())"
    began = time.perf_counter()
    age = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert 0.5 < age < time.perf_counter() - began + 0.02


# -- making a folder --------------------------------------------------------------------------------------------------


def test_a_new_run_says_what_it_is(running: Run, folder: Path) -> None:
    assert running.folder.parent == folder
    stamp, task, dataset = running.folder.name.split("-")
    assert abs(datetime.now() - datetime.strptime(stamp, "%Y%m%d_%H%M%S")) < timedelta(minutes=1)
    assert (task, dataset) == ("ddpm", "mnist")
    status = read_status(running.folder)
    assert status["state"] == "running"
    assert status["task"] == "train_ddpm"
    assert status["dataset"] == "mnist"
    assert (status["pid"], status["host"]) == (os.getpid(), socket.gethostname())
    for key in ("started", "heartbeat"):
        moment = datetime.fromisoformat(status[key])
        assert moment.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
    assert liveness(status) == "running"


def _create(folder: Path) -> str:
    run = Run.create(folder, "train_flow", "digits", "name")
    run.end("finished")
    return run.folder.name


def test_runs_of_the_same_second_get_folders_of_their_own(folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: _create(folder), range(16)))
    assert len(set(names)) == 16
    assert len(find_runs(folder)) == 16


def test_names_that_cannot_be_folders(folder: Path) -> None:
    for name in ("a/b", "../up", ".hidden", "x" * 101):
        with pytest.raises(UserError, match=r"^name .*: must be at most 100 printable characters"):
            Run.create(folder, "train_ddpm", "mnist", name)
    assert not folder.exists()
    run = Run.create(folder, "train_ddpm", "mnist", "größer & besser")
    run.end("finished")
    assert run.folder.name.endswith("-ddpm-mnist-größer & besser")


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for unwritable in (file, file / "below", Path("/proc/nowhere")):
        with pytest.raises(UserError, match=r"^experiments_dir .*: cannot write in it") as error:
            Run.create(unwritable, "train_ddpm", "mnist", None)
        assert "\n" not in str(error.value)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(UserError, match=r"^experiments_dir .*: cannot write in it .Permission denied.; name another"):
        Run.create(tmp_path / "locked", "train_ddpm", "mnist", None)


def test_a_full_disk_leaves_no_folder_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "write_text", full)
    with pytest.raises(UserError, match="No space left on device"):
        Run.create(folder, "train_ddpm", "mnist", None)
    assert list(folder.iterdir()) == []


# -- states -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["finished", "interrupted", "failed"])
def test_an_ended_run_says_how(folder: Path, state: str) -> None:
    run = Run.create(folder, "train_ddpm", "mnist", None)
    run.update(step=12, loss=0.5)
    run.end(state, "because")
    status = read_status(run.folder)
    assert (status["state"], status["reason"], status["step"], status["loss"]) == (state, "because", 12, 0.5)
    assert liveness(status) == state


def test_liveness() -> None:
    old = (datetime.now(UTC) - timedelta(seconds=STALE_SECONDS + 5)).isoformat()
    fresh = (datetime.now(UTC) - timedelta(seconds=STALE_SECONDS - 30)).isoformat()
    elsewhere = "another-machine"
    assert liveness(status_of()) == "running"
    assert liveness(status_of(heartbeat=fresh)) == "running"
    assert liveness(status_of(heartbeat=old)) == "dead"
    assert liveness(status_of(pid=ended_pid())) == "dead"
    assert liveness(status_of(pid=ended_pid(), host=elsewhere)) == "running"
    assert liveness(status_of(host=elsewhere, heartbeat=old)) == "dead"
    assert liveness(status_of(pid=1)) == "running"
    assert liveness(status_of(state="finished", pid=ended_pid(), heartbeat=old)) == "finished"


@pytest.mark.parametrize(
    "fields",
    [{"heartbeat": None}, {"heartbeat": "noon"}, {"heartbeat": "2026-01-01T00:00:00"}, {"pid": None}, {"pid": 10**30}],
)
def test_liveness_of_a_strange_status(fields: dict[str, Any]) -> None:
    assert liveness(status_of(**fields)) == "dead"


def test_no_state_at_all() -> None:
    assert liveness({}) == "unknown"


def test_the_heart_beats(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "HEARTBEAT_SECONDS", 0.02)
    run = Run.create(folder, "train_ddpm", "mnist", None)
    status = run.folder / "status.json"
    write_times = {status.stat().st_mtime_ns}
    deadline = time.monotonic() + 60
    while len(write_times) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
        write_times.add(status.stat().st_mtime_ns)
        json.loads(status.read_text())
    assert len(write_times) >= 3
    run.check()
    run.end("finished")
    ended = status.stat().st_mtime_ns
    time.sleep(0.1)
    assert status.stat().st_mtime_ns == ended
    assert HEARTBEAT_SECONDS * 2 < STALE_SECONDS


def test_a_removed_folder_is_noticed_and_ending_still_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_module, "HEARTBEAT_SECONDS", 0.02)
    run = Run.create(folder, "train_ddpm", "mnist", None)
    run.folder.rename(folder / "elsewhere")
    deadline = time.monotonic() + 60
    with pytest.raises(FileNotFoundError):
        while time.monotonic() < deadline:
            run.check()
            time.sleep(0.02)
    run.end("failed")
    assert "cannot mark" in capsys.readouterr().err
    assert not run.folder.exists()


def _train_forever(folder: Path) -> None:
    Run.create(folder, "train_ddpm", "mnist", None).update(step=3)
    time.sleep(60)


def test_a_killed_run_is_dead_and_can_be_resumed(folder: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_train_forever, args=(folder,))
    process.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        runs = find_runs(folder)
        if runs and read_status(runs[0]).get("step") == 3:
            break
        time.sleep(0.02)
    (path,) = find_runs(folder)
    with pytest.raises(UserError, match=f"is still running .pid {process.pid}"):
        Run.reopen(path)
    process.kill()
    process.join()
    assert read_status(path)["state"] == "running"
    assert liveness(read_status(path)) == "dead"
    again = Run.reopen(path)
    status = read_status(path)
    assert (status["state"], status["pid"], status["step"]) == ("running", os.getpid(), 3)
    again.end("finished")


def test_infinity_and_nan_become_null(running: Run) -> None:
    running.note(loss=float("nan"))
    running.update(test_loss=float("inf"), step=1)
    text = (running.folder / "status.json").read_text()
    status = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert status["loss"] is None
    assert status["test_loss"] is None


# -- what is in the folder ----------------------------------------------------------------------------------------


def test_settings_come_back_as_they_were(running: Run) -> None:
    settings = {"lr": 1e-4, "name": "ünï: #1", "milestones": [0.5, 0.75], "resume": None, "clip": True, "empty": ""}
    running.write_config(settings)
    assert read_config(running.folder) == settings
    with pytest.raises(UserError, match=r"config\.txt cannot be read"):
        read_config(running.folder / "absent")


def test_a_config_executes_nothing(running: Run, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (running.folder / "config.txt").write_text(f"a: !!python/object/apply:os.system ['touch {mark}']\n")
    with pytest.raises(UserError, match="cannot be read"):
        read_config(running.folder)
    assert not mark.exists()


def test_log_lines_go_to_the_file_and_to_standard_error(running: Run, capsys: pytest.CaptureFixture[str]) -> None:
    running.log("epoch 1 — größer")
    running.log("epoch 2")
    assert (running.folder / "training_log.txt").read_text(encoding="utf-8") == "epoch 1 — größer\nepoch 2\n"
    printed = capsys.readouterr()
    assert printed.err == "epoch 1 — größer\nepoch 2\n"
    assert printed.out == ""


def test_a_closed_terminal_does_not_stop_the_log(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

        def flush(self) -> None:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Closed())
    running.log("still here")
    assert "still here" in (running.folder / "training_log.txt").read_text()


def test_the_launchers_log_and_session_are_recorded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "session.log"
    log.write_text("first line\n")
    monkeypatch.setenv("LAUNCH_LOG", str(log))
    monkeypatch.setenv("LAUNCH_SESSION", "ddpm-mnist-1")
    monkeypatch.setenv("LAUNCH_RECORD", str(tmp_path))
    run = Run.create(folder, "train_ddpm", "mnist", None)
    assert (tmp_path / "folder").read_text() == f"{run.folder}\n"
    with log.open("a") as file:
        file.write("second line\n")
    assert (run.folder / "console.log").read_text() == "first line\nsecond line\n"
    assert read_status(run.folder)["session"] == "ddpm-mnist-1"
    run.end("finished")
    log.unlink()
    Run.reopen(run.folder).end("finished")
    assert (run.folder / "console.log").read_text() == "first line\nsecond line\n"
    log.write_text("another session\n")
    Run.reopen(run.folder).end("finished")
    assert (run.folder / "console.log").read_text() == "another session\n"
    assert (run.folder / "console-1.log").read_text() == "first line\nsecond line\n"


def test_a_folder_without_links_can_be_trained_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "session.log").write_text("a line")
    monkeypatch.setenv("LAUNCH_LOG", str(tmp_path / "session.log"))
    for kind in ("hardlink_to", "symlink_to"):
        monkeypatch.setattr(Path, kind, refuse)
    run = Run.create(folder, "train_ddpm", "mnist", None)
    run.end("finished")
    assert not (run.folder / "console.log").exists()


def test_without_a_launcher_there_is_no_session(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    if "LAUNCH_SESSION" not in os.environ:
        assert read_status(running.folder)["session"] is None
        assert not (running.folder / "console.log").exists()


def test_the_environment_names_versions_machine_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    text = environment()
    for key in ("started", "command", "commit", "host", "python", "torch", "cpu"):
        assert f"\n{key}: " in f"\n{text}"
    for name in (*VARIABLES, "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    typed = [".venv/bin/python", "-m", "scripts.train_flow", "--name", "my run"]
    monkeypatch.setattr(sys, "orig_argv", typed)
    assert shlex.split(command()) == typed
    monkeypatch.setenv("DATA_ROOT", "my data")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert shlex.split(command()) == ["CUDA_VISIBLE_DEVICES=", "DATA_ROOT=my data", *typed]
    monkeypatch.setenv("TASK_COMMAND", "NODES=2 scripts/sh/slurm.sh train_flow")
    assert shlex.split(command())[2:] == typed
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")  # this process is one of several
    assert command().endswith(" NODES=2 scripts/sh/slurm.sh train_flow")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "commit: unknown" in environment()
