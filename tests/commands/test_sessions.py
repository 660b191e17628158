"""Tests of sessions.sh and monitor.sh: sessions are listed, stopped and monitored, and no others are touched."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.fake_repository import FakeRepository, eventually, fake_repository

pytestmark = pytest.mark.slow

needs_screen = pytest.mark.skipif(shutil.which("screen") is None, reason="not installed: screen")
needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="not installed: tmux")
LAUNCHERS = [
    pytest.param("screen", marks=needs_screen),
    pytest.param("tmux", marks=needs_tmux),
    "nohup",
]


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[FakeRepository]:
    with fake_repository(tmp_path) as made:
        yield made


def signals(repository: FakeRepository, session: str) -> str:
    file = repository.run_folder(session) / "signals"
    return file.read_text() if file.exists() else ""


def monitored(repository: FakeRepository, session: str) -> list[dict[str, str]]:
    with (repository.launch / f"{session}.monitor.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_stop_interrupts_once_and_waits(repository: FakeRepository, launcher: str) -> None:
    session = repository.serve(LAUNCH_WITH=launcher)
    done = repository.run("scripts/sh/sessions.sh", "stop")
    assert done.returncode == 0
    assert f"{session} has ended with exit code 130" in done.stderr
    assert signals(repository, session) == "2"
    assert repository.run("scripts/sh/sessions.sh", "stop", session).returncode == 2


@needs_screen
def test_stop_touches_nothing_else(repository: FakeRepository) -> None:
    session, other = repository.serve(), repository.serve()
    for foreign in (session, "foreign"):  # one of them has the same name
        assert repository.run("screen", "-dmS", foreign, "sleep", "100").returncode == 0
    ours = repository.field(session, "id")

    def foreign_screens() -> set[str]:
        return {screen for screen in repository.screens() if screen.endswith((".foreign", f".{session}"))} - {ours}

    assert eventually(lambda: len(foreign_screens()) == 2)  # `screen -dmS` returns before the session is listed
    strangers = foreign_screens()

    assert repository.run("scripts/sh/sessions.sh", "stop", session).returncode == 0
    assert repository.run("scripts/sh/sessions.sh", "stop", "foreign").returncode == 2
    assert repository.run("scripts/sh/sessions.sh", "list").stdout.splitlines()[1].split()[0] == other
    assert repository.run("scripts/sh/sessions.sh", "stop", "--all").returncode == 0
    assert eventually(lambda: set(repository.screens()) == strangers), (repository.screens(), strangers)


def test_stop_spares_a_process_that_reuses_the_process_id(repository: FakeRepository) -> None:
    session = repository.serve(LAUNCH_WITH="nohup")
    assert repository.run("scripts/sh/sessions.sh", "stop").returncode == 0
    stranger = subprocess.Popen(["sleep", "100"])
    try:
        (repository.launch / session / "exit").unlink()  # as after a power failure
        (repository.launch / session / "pid").write_text(f"{stranger.pid}\n")
        assert repository.run("scripts/sh/sessions.sh", "stop", session).returncode == 2
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_stop_says_when_the_task_takes_too_long(repository: FakeRepository) -> None:
    session = repository.serve(LAUNCH_WITH="nohup")
    done = repository.run("scripts/sh/sessions.sh", "stop", STOP_WAIT="0")
    assert done.returncode == 1
    assert f"a second 'make stop ARGS={session}' ends it at once" in done.stderr
    assert eventually(lambda: signals(repository, session) == "2")


def test_stop_all_interrupts_every_session_before_it_waits(repository: FakeRepository) -> None:
    sessions = [repository.serve(LAUNCH_WITH="nohup") for _ in range(2)]
    done = repository.run("scripts/sh/sessions.sh", "stop", "--all", STOP_WAIT="0")
    assert done.returncode == 1
    assert all(f"a second 'make stop ARGS={session}' ends it at once" in done.stderr for session in sessions)
    assert eventually(lambda: all(signals(repository, session) == "2" for session in sessions))


@needs_screen
def test_closing_a_screen_sends_one_signal(repository: FakeRepository) -> None:
    session = repository.serve()
    repository.run("screen", "-S", repository.field(session, "id"), "-X", "quit")
    assert eventually(lambda: signals(repository, session))
    assert signals(repository, session) == "1"
    assert eventually((repository.launch / session / "exit").is_file)
    assert eventually(lambda: repository.field(session, "exit") == "129")


@needs_tmux
def test_closing_a_tmux_session_sends_one_signal(repository: FakeRepository) -> None:
    session = repository.serve(LAUNCH_WITH="tmux")
    repository.run("tmux", "-L", session, "kill-session")
    assert eventually(lambda: signals(repository, session))
    assert signals(repository, session) == "1"


@needs_screen
def test_a_ctrl_c_in_the_session_reaches_the_task_once(repository: FakeRepository) -> None:
    session = repository.serve()
    repository.run("screen", "-S", repository.field(session, "id"), "-X", "stuff", "\x03")
    assert eventually(lambda: signals(repository, session))
    assert signals(repository, session) == "2"


@needs_screen
def test_the_monitor_measures_and_ends_with_the_task(repository: FakeRepository) -> None:
    session = repository.serve(MONITOR_INTERVAL="1", PATH=no_gpu(repository))
    assert len(repository.screens()) == 2
    assert eventually(lambda: len(monitored(repository, session)) >= 2)
    os.kill(int(repository.field(session, "pid")), 9)
    assert eventually(lambda: not repository.screens())
    rows = monitored(repository, session)
    assert list(rows[0]) == ["time", "cpu_percent", "memory_mib"]
    assert all(0 <= float(row["cpu_percent"]) < 150 and 5 < float(row["memory_mib"]) < 100 for row in rows)


def test_the_monitor_records_every_gpu(repository: FakeRepository) -> None:
    session = repository.serve(LAUNCH_WITH="nohup", MONITOR_INTERVAL="1", PATH=two_gpus(repository))
    assert eventually(lambda: len(monitored(repository, session)) >= 4)
    repository.run("scripts/sh/sessions.sh", "stop")
    rows = monitored(repository, session)
    assert [row["gpu"] for row in rows[:4]] == ["0", "1", "0", "1"]
    assert (rows[1]["gpu_percent"], rows[1]["gpu_memory_mib"], rows[1]["gpu_celsius"]) == ("97", "20480", "61")
    assert float(rows[0]["memory_mib"]) > 5


def no_gpu(repository: FakeRepository) -> str:
    return nvidia_smi(repository, "echo 'NVIDIA-SMI has failed'; exit 9")


def two_gpus(repository: FakeRepository) -> str:
    rows = r"0, 12, 1024, 143771, 88.10, 40\n1, 97, 20480, 143771, 512.00, 61\n"
    return nvidia_smi(repository, f"[[ $1 == -L ]] && echo 'GPU 0: H' || printf '{rows}'")


def nvidia_smi(repository: FakeRepository, body: str) -> str:
    """Return a PATH on which nvidia-smi is a script with this body."""
    program = repository.root / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/usr/bin/env bash\n{body}\n")
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


def test_attach_and_stop_need_a_name_if_there_are_several(repository: FakeRepository) -> None:
    for action in ("attach", "stop", "monitor"):
        done = repository.run("scripts/sh/sessions.sh", action)
        assert (done.returncode, done.stderr) == (2, "error: no session is running\n")
    names = [repository.serve(LAUNCH_WITH="nohup") for _ in range(2)]
    for action in ("attach", "stop"):
        done = repository.run("scripts/sh/sessions.sh", action)
        assert done.returncode == 2
        assert all(name in done.stderr for name in names)
        assert done.stderr.splitlines()[-1].startswith("error: several sessions are running: choose one")
    done = repository.run("scripts/sh/sessions.sh", "attach", "nope")
    assert done.returncode == 2
    assert "no session 'nope' is running" in done.stderr
    assert repository.run("scripts/sh/sessions.sh", "stop", "--all").returncode == 0


def test_an_unknown_action_is_named(repository: FakeRepository) -> None:
    done = repository.run("scripts/sh/sessions.sh", "lst")
    choices = "list, attach, monitor, stop, forget"
    assert (done.returncode, done.stderr) == (2, f"error: no action is called 'lst': choose from {choices}\n")


@needs_screen
def test_attach_shows_the_only_session(repository: FakeRepository) -> None:
    session = repository.serve()
    terminal, inside = os.openpty()
    env = repository.env | {"TERM": "xterm"}
    attached = subprocess.Popen(
        ["make", "attach"], cwd=repository.root, env=env, stdin=inside, stdout=inside, stderr=inside
    )
    try:
        os.close(inside)
        seen = b""
        while b"serving" not in seen:
            seen += os.read(terminal, 4096)
        os.write(terminal, b"\x01d")
        assert attached.wait(timeout=60) == 0
    finally:
        attached.kill()
        attached.wait()
        os.close(terminal)
    assert repository.run("scripts/sh/sessions.sh", "list").stdout.split()[3] == session
    assert repository.run("scripts/sh/sessions.sh", "stop").returncode == 0


def test_forget_deletes_the_records_of_ended_sessions_only(repository: FakeRepository) -> None:
    ended, running = repository.serve(LAUNCH_WITH="nohup"), repository.serve(LAUNCH_WITH="nohup")
    folder = repository.run_folder(ended)
    assert repository.run("scripts/sh/sessions.sh", "stop", ended).returncode == 0
    assert repository.run("scripts/sh/sessions.sh", "forget").returncode == 0
    assert {path.name.split(".")[0] for path in repository.launch.iterdir()} == {running}
    assert "serving" in (folder / "console.log").read_text()
    assert repository.run("scripts/sh/sessions.sh", "stop").returncode == 0
