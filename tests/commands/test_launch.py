"""Tests of launch.sh: flags arrive unchanged, an early failure is reported, and each session has its own name."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.commands.fake_repository import FOREIGN, ROOT, FakeRepository, eventually, fake_repository, path_without

pytestmark = pytest.mark.slow

LAUNCHERS = [
    pytest.param(tool, marks=pytest.mark.skipif(shutil.which(tool) is None, reason=f"not installed: {tool}"))
    for tool in ("screen", "tmux", "nohup")
]
NASTY = [
    "--name",
    "my run",
    "",
    "*",
    "?[a-z]",
    "$HOME",
    "$(exit 3)",
    "`exit 3`",
    '"',
    "'",
    'it\'s "so"',
    "\\",
    "a\\nb",
    "two\nlines",
    "\n",
    "\ttab",
    "-",
    "--",
    "-e",
    ";",
    "a;",
    "&& false",
    "| cat",
    "> out",
    "#not a comment",
    "!!",
    "~",
    "{a,b}",
    "%H %n",
    "#{session_name}",
    "^C",
    "é ü 漢字 🙂",
    "x" * 5000,
    *(f"--flag_{count}={count}" for count in range(100)),
]
WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=80)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[FakeRepository]:
    with fake_repository(tmp_path) as made:
        yield made


def received(repository: FakeRepository) -> list[str]:
    return json.loads(repository.out.read_text())


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_flags_arrive_untouched(repository: FakeRepository, launcher: str) -> None:
    done = repository.run("scripts/sh/launch.sh", "fake", *NASTY, LAUNCH_WITH=launcher)
    assert done.returncode == 0, done.stderr
    assert received(repository) == NASTY


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=WORDS)
def test_any_flags_arrive_in_the_foreground(repository: FakeRepository, words: list[str]) -> None:
    done = repository.run("scripts/sh/launch.sh", "fake", *words, FOREGROUND="1")
    assert done.returncode == 0, done.stderr
    assert received(repository) == words


@pytest.mark.skipif(shutil.which("screen") is None, reason="not installed: screen")
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=WORDS)
def test_any_flags_arrive_in_a_session(repository: FakeRepository, words: list[str]) -> None:
    done = repository.run("scripts/sh/launch.sh", "fake", *words)
    assert done.returncode == 0, done.stderr
    assert received(repository) == words


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_an_early_death_is_reported_with_its_code(repository: FakeRepository, launcher: str) -> None:
    done = repository.run("scripts/sh/launch.sh", "fake", "--bath_size", FAKE="die 7", LAUNCH_WITH=launcher)
    assert done.returncode == 7
    assert done.stdout == ""
    assert "error: fake ended with exit code 7" in done.stderr
    assert "error: no such flag: --bath_size" in done.stderr


def test_an_early_death_in_the_foreground_keeps_its_code(repository: FakeRepository) -> None:
    assert repository.run("scripts/sh/launch.sh", "fake", FAKE="die 5", FOREGROUND="1").returncode == 5


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_mistake_is_one_line_and_leaves_nothing(repository: FakeRepository, launcher: str) -> None:
    done = repository.run("scripts/sh/launch.sh", "fake", "--bath_size", FAKE="mistake", LAUNCH_WITH=launcher)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no such flag: --bath_size\n"
    assert eventually(lambda: not list(repository.launch.iterdir())), list(repository.launch.iterdir())


def test_a_mistake_after_a_long_start_is_waited_for(repository: FakeRepository) -> None:
    done = repository.run("scripts/sh/launch.sh", "fake", FAKE="mistake", FAKE_DELAY="3", LAUNCH_WITH="nohup")
    assert (done.returncode, done.stdout) == (2, "")
    waiting = "waiting until fake has made its run folder or ended (Ctrl-C ends the wait, not the task)"
    assert done.stderr.splitlines() == [waiting, "error: no such flag: --bath_size"]


@pytest.mark.parametrize("seconds", ["0", "1"])
def test_a_wait_that_ends_first_says_just_that(seconds: str, repository: FakeRepository) -> None:
    env = {"FAKE_DELAY": "100", "LAUNCH_WITH": "nohup", "LAUNCH_WAIT": seconds}
    done = repository.run("scripts/sh/launch.sh", "fake", **env)
    assert done.returncode == 0
    said = r"the wait has ended after \d+ s: fake has neither ended nor made a run folder, and goes on \(nohup\)"
    assert re.fullmatch(said, done.stderr.splitlines()[0])
    assert "detached session" not in done.stderr
    assert f"make stop ARGS={done.stdout.strip()}" in done.stderr
    assert repository.run("scripts/sh/sessions.sh", "stop").returncode == 0


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ctrl_c_ends_the_wait_and_not_the_task(repository: FakeRepository, launcher: str) -> None:
    env = repository.env | {"FAKE": "serve", "FAKE_DELAY": "12", "LAUNCH_WITH": launcher}
    command = ["scripts/sh/launch.sh", "fake"]
    waiting = subprocess.Popen(
        command, cwd=repository.root, env=env, start_new_session=True, stdout=PIPE, stderr=PIPE, text=True
    )
    assert eventually(lambda: list(repository.launch.glob("*/pid")))
    os.killpg(waiting.pid, signal.SIGINT)
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 130
    assert "the wait has ended" in err
    session = out.strip()
    assert eventually((repository.launch / session / "folder").is_file)
    assert repository.run("scripts/sh/sessions.sh", "stop", session).returncode == 0
    assert (repository.run_folder(session) / "signals").read_text() == "2"


@pytest.mark.skipif(shutil.which("tmux") is None, reason="not installed: tmux")
@pytest.mark.parametrize("session", ["fake", "monitor"])
def test_ctrl_c_while_a_session_starts_ends_the_wait(repository: FakeRepository, session: str) -> None:
    slow = repository.root / "slow" / "tmux"
    slow.parent.mkdir()
    begun = repository.root / "the session starts"
    wait = f"trap '' INT; touch '{begun}'; sleep 2; trap - INT"
    tmux = f'exec {shutil.which("tmux")} "$@"'
    slow.write_text(f"#!/bin/bash\nif [[ $3 == {session}-* ]]; then {wait}; fi\n{tmux}\n")
    slow.chmod(0o755)
    env = repository.env | {"FAKE": "serve", "FAKE_DELAY": "12", "LAUNCH_WITH": "tmux"}
    env["PATH"] = f"{slow.parent}:{env['PATH']}"
    waiting = subprocess.Popen(
        ["scripts/sh/launch.sh", "fake"], cwd=repository.root, env=env, start_new_session=True, stdout=PIPE, text=True
    )
    assert eventually(begun.exists)
    os.killpg(waiting.pid, signal.SIGINT)
    name = waiting.communicate(timeout=60)[0].strip()
    assert waiting.returncode == 130
    assert eventually((repository.launch / name / "folder").is_file)
    assert repository.run("scripts/sh/sessions.sh", "stop", name).returncode == 0


@pytest.mark.skipif(shutil.which("screen") is None, reason="not installed: screen")
def test_a_session_that_is_closed_during_the_wait_is_reported(repository: FakeRepository) -> None:
    env = repository.env | {"FAKE_DELAY": "100", "LAUNCH_WITH": "screen"}
    waiting = subprocess.Popen(["scripts/sh/launch.sh", "fake"], cwd=repository.root, env=env, stderr=PIPE, text=True)
    assert eventually(lambda: list(repository.launch.glob("*/pid")))
    (session,) = (path.parent.name for path in repository.launch.glob("*/pid"))
    repository.run("screen", "-S", repository.field(session, "id"), "-X", "quit")
    assert waiting.communicate(timeout=60)[1].splitlines()[0].startswith("error: fake ended with exit code 129")
    assert waiting.returncode == 129


def test_a_typo_in_a_real_task_is_its_one_line(tmp_path: Path) -> None:
    """The real task reads its flags in a real session."""
    env = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    env |= {"EXPERIMENTS_DIR": str(tmp_path / "my runs"), "PYTHON": sys.executable, "SCREENDIR": str(tmp_path)}
    tmp_path.chmod(0o700)
    for typo in (["--bath_size", "3"], ["--dataset", "mnits"]):
        done = subprocess.run(
            ["scripts/sh/launch.sh", "train_flow", *typo],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        said = [line for line in done.stderr.splitlines() if not line.startswith(("screen is not", "waiting until"))]
        assert len(said) == 1 and said[0].startswith("error: ")
    assert eventually(lambda: not list((tmp_path / "my runs" / ".launch").iterdir()))


def test_the_home_folder_and_another_interpreter(repository: FakeRepository, tmp_path: Path) -> None:
    """A ~ in a variable is the home folder, although no shell expands it; PYTHON is an environment of the user's."""
    home = tmp_path / "a home"
    (home / "my env").mkdir(parents=True)
    (home / "my env" / "python").symlink_to(sys.executable)
    (repository.root / ".venv" / "bin" / "python").unlink()
    env = {"HOME": str(home), "EXPERIMENTS_DIR": "~/runs", "PYTHON": "~/my env/python"}
    done = repository.run("scripts/sh/launch.sh", "fake", FAKE="serve", LAUNCH_WITH="nohup", **env)
    assert done.returncode == 0, done.stderr
    session = done.stdout.strip()
    argv = (home / "runs" / ".launch" / session / "argv").read_text().split("\0")
    assert argv[0] == str(home / "my env" / "python")
    assert f"  run      {home}/runs/run-" in done.stderr
    assert repository.run("scripts/sh/sessions.sh", "stop", **env).returncode == 0
    assert not (repository.root / "~").exists() and not repository.experiments.exists()
    for value in ("~nobody-at-all/runs", "~$(touch made)", "~;touch made", "~+"):
        repository.run("scripts/sh/sessions.sh", "list", EXPERIMENTS_DIR=value)
        assert not (repository.root / "made").exists()
    done = repository.run("scripts/sh/launch.sh", "fake", PYTHON="nowhere/python")
    assert (done.returncode, done.stderr) == (2, "error: PYTHON=nowhere/python: there is no such program\n")


@pytest.mark.parametrize("value", ["soon", "-1", "08", "1.5", "1 2"])
def test_numbers_in_variables_are_checked(repository: FakeRepository, value: str) -> None:
    for name, what in (("LAUNCH_WAIT", "seconds"), ("GPUS", "GPUs, or 0 for the CPU")):
        done = repository.run("scripts/sh/launch.sh", "fake", **{name: value})
        assert (done.returncode, done.stderr) == (2, f"error: {name}={value}: must be a number of {what}\n")
    done = repository.run("scripts/sh/sessions.sh", "stop", STOP_WAIT=value)
    assert (done.returncode, done.stderr) == (2, f"error: STOP_WAIT={value}: must be a number of seconds\n")
    assert not repository.experiments.exists()


def test_sessions_started_at_once_have_different_names(repository: FakeRepository) -> None:
    with ThreadPoolExecutor() as pool:
        names = list(pool.map(lambda _: repository.serve(LAUNCH_WITH="nohup"), range(3)))
    assert len(set(names)) == 3
    assert len({repository.field(name, "pid") for name in names}) == 3
    assert repository.run("scripts/sh/sessions.sh", "stop", "--all").returncode == 0


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_it_says_how_to_attach_follow_and_stop(repository: FakeRepository, launcher: str) -> None:
    done = repository.run("scripts/sh/launch.sh", "fake", FAKE="serve", LAUNCH_WITH=launcher)
    session = done.stdout.strip()
    folder = repository.run_folder(session)
    assert f"run      {folder.relative_to(repository.root)}" in done.stderr
    assert f"tail -f experiments/.launch/{session}.log" in done.stderr
    assert f"make stop ARGS={session}" in done.stderr
    attach = {"screen": f"screen -x {repository.field(session, 'id')}", "tmux": f"tmux -L {session} attach"}
    assert attach.get(launcher, "") in done.stderr
    assert repository.run("scripts/sh/sessions.sh", "stop", session).returncode == 0
    log = (folder / "console.log").read_bytes()
    assert b"serving, terminal: False\n" in log and b"\r" not in log and b"\x1b" not in log


@pytest.mark.skipif(shutil.which("tmux") is None, reason="not installed: tmux")
def test_without_screen_it_takes_tmux_and_says_so(repository: FakeRepository, tmp_path: Path) -> None:
    done = repository.run("scripts/sh/launch.sh", "fake", "a b", PATH=path_without(tmp_path / "bin", "screen"))
    assert done.returncode == 0
    assert "screen is not installed" in done.stderr and "using tmux" in done.stderr
    assert received(repository) == ["a b"]


def test_without_screen_and_tmux_it_takes_nohup_and_says_so(repository: FakeRepository, tmp_path: Path) -> None:
    path = path_without(tmp_path / "bin", "screen", "tmux")
    done = repository.run("scripts/sh/launch.sh", "fake", "a b", PATH=path)
    assert done.returncode == 0
    assert "screen is not installed" in done.stderr and "using nohup" in done.stderr
    assert received(repository) == ["a b"]
    missing = repository.run("scripts/sh/launch.sh", "fake", PATH=path, LAUNCH_WITH="screen")
    assert missing.returncode == 2
    assert missing.stderr == "error: LAUNCH_WITH=screen: screen is not installed\n"


def test_mistakes_are_one_line_and_leave_nothing(repository: FakeRepository) -> None:
    for task in ("nope", "../fake", "launch", ""):
        done = repository.run("scripts/sh/launch.sh", task)
        assert done.returncode == 2
        tasks = "fake generate record train_ddpm train_flow visualize_schedules"
        assert done.stderr == f"error: no task is called '{task}': choose from {tasks}\n"
    done = repository.run("scripts/sh/launch.sh", "fake", LAUNCH_WITH="cron")
    assert (done.returncode, done.stderr) == (2, "error: LAUNCH_WITH=cron: choose screen, tmux or nohup\n")
    assert repository.run("scripts/sh/launch.sh").returncode == 2
    assert not repository.experiments.exists()
    (repository.root / ".venv" / "bin" / "python").unlink()
    done = repository.run("scripts/sh/launch.sh", "fake")
    assert (done.returncode, done.stderr) == (2, "error: there is no environment in .venv: run 'make setup'\n")


def test_several_processes_are_refused_for_a_task_that_runs_on_one(repository: FakeRepository) -> None:
    for env in ({"GPUS": "2"}, {"GPUS": "0", "PROCS": "2"}):
        done = repository.run("scripts/sh/launch.sh", "record", **env)
        message = "error: record runs on one process, not on 2: leave out GPUS and PROCS\n"
        assert (done.returncode, done.stderr) == (2, message)
    assert not repository.out.exists() and not repository.experiments.exists()
    assert repository.run("scripts/sh/launch.sh", "record", GPUS="0", PROCS="1", FOREGROUND="1").returncode == 0


def test_the_shell_lists_the_tasks_that_run_on_several_processes() -> None:
    listed = re.search(r"^parallel_tasks='(.*)'$", (ROOT / "scripts/sh/session_records.sh").read_text(), re.MULTILINE)
    assert listed
    sources = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "scripts").glob("[a-z]*.py")}
    assert all('if __name__ == "__main__":' in source for source in sources.values())
    parallel = [task for task, source in sources.items() if "run_command(main, parallel=True)" in source]
    assert listed[1].split() == sorted(parallel)


def test_an_experiments_folder_that_cannot_be_written_is_named(repository: FakeRepository) -> None:
    (repository.root / "file").write_text("")
    done = repository.run("scripts/sh/launch.sh", "fake", EXPERIMENTS_DIR="file")
    assert done.returncode == 2
    folder = repository.root / "file" / ".launch"
    assert done.stderr == f"error: cannot write to {folder}: choose another folder with EXPERIMENTS_DIR\n"


@pytest.mark.skipif(shutil.which("screen") is None, reason="not installed: screen")
def test_a_launcher_that_cannot_start_is_named(repository: FakeRepository) -> None:
    done = repository.run("scripts/sh/launch.sh", "fake", SCREENDIR="/dev/null", LAUNCH_WITH="screen")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "error: screen could not start a session: try LAUNCH_WITH=nohup" in done.stderr


def test_help_runs_in_the_foreground(repository: FakeRepository) -> None:
    for flag in ("--help", "-h"):
        assert repository.run("scripts/sh/launch.sh", "fake", flag).returncode == 0
        assert received(repository) == [flag]
    assert not repository.experiments.exists()
