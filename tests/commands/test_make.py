"""Tests of the Makefile: the help lists every target, ARGS arrives as typed, and each target calls its task."""

from __future__ import annotations

import json
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.commands.fake_repository import ROOT, TASK, FakeRepository, fake_repository

WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=30)
QUOTED = r"""--name "my run" --other 'it'\''s' --empty "" --glob '*' --sum '$(x) ${y' --hash '#1' --number=5"""


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[FakeRepository]:
    with fake_repository(tmp_path) as made:
        yield made


def make(repository: FakeRepository, *words: str, **env: str) -> list[str]:
    """Run make and return the arguments that the task received."""
    done = repository.run("make", *words, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(repository.out.read_text())


def test_help_lists_every_target_within_80_columns(repository: FakeRepository) -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    targets = set(re.findall(r"^(\w+):(?!=)", text, re.MULTILINE))
    done = repository.run("make")
    listed = re.findall(r"^  (\w+) +\S", done.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(targets - {"environment", "test_environment"})
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_args_arrive_as_typed(repository: FakeRepository) -> None:
    expected = shlex.split(QUOTED)
    assert make(repository, "train_ddpm", "FOREGROUND=1", f"ARGS={QUOTED}") == expected
    assert make(repository, "train_ddpm", "FOREGROUND=1", ARGS=QUOTED) == expected
    assert make(repository, "train_ddpm", "FOREGROUND=1") == []
    assert make(repository, "train_ddpm", "FOREGROUND=1", "ARGS=--a 1\n  --b 2 # a comment\n") == [
        "--a",
        "1",
        "--b",
        "2",
    ]


def test_mistyped_variables_and_targets_start_nothing(repository: FakeRepository) -> None:
    for word in ("ARG=--seed 3", "args=--seed 3", "EPOCHS=3", "BATCH_SIZE=8", "OMP_NUM_THREADS=1"):
        done = repository.run("make", "train_flow", "FOREGROUND=1", word)
        name = word.partition("=")[0]
        assert done.returncode == 2
        assert f"{name}= is unknown here." in done.stderr and 'ARGS="--flag value"' in done.stderr
    done = repository.run("make", "train_flow", "FOREGROUND=1", "DATASET=mnist")
    assert done.returncode == 2 and "DATASET= is for make record" in done.stderr
    for word in ("latest", "train_minst", "resume"):
        done = repository.run("make", "train_flow", word, "FOREGROUND=1")
        assert done.returncode == 2
        assert f"no target is called '{word}'" in done.stderr
    assert not repository.out.exists()
    variables = ("FOREGROUND=1", "GPUS=0", "DATA_ROOT=~/data", "EXPERIMENTS_DIR=~/runs", "MEMORY_LIMIT=1")
    assert make(repository, "train_flow", *variables, "ARGS=--seed 3", OMP_NUM_THREADS="1") == ["--seed", "3"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=WORDS)
def test_any_quoted_args_arrive(repository: FakeRepository, words: list[str]) -> None:
    assert make(repository, "train_ddpm", "FOREGROUND=1", f"ARGS={shlex.join(words)}") == words


@pytest.mark.parametrize("args", ["--name 'my run", "--a; echo done", "--a $(", "--a | cat", "--a )"])
def test_args_that_the_shell_cannot_read_start_nothing(repository: FakeRepository, args: str) -> None:
    done = repository.run("make", "train_ddpm", "FOREGROUND=1", f"ARGS={args}")
    assert done.returncode != 0
    assert done.stdout == ""
    assert not repository.out.exists()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "emnist", "cifar10"])
def test_each_recipe_has_a_target(repository: FakeRepository, name: str) -> None:
    given = make(repository, f"train_{name}", "FOREGROUND=1", "ARGS=--seed 3")
    assert given == ["--recipe", name, "--seed", "3"]


def test_a_record_takes_its_data_set_minutes_and_seeds_as_variables(repository: FakeRepository) -> None:
    given = make(repository, "record", "FOREGROUND=1", "DATASET=mnist", "MINUTES=1", "SEEDS=0 1", "ARGS=-- --lr 1e-3")
    assert given == ["--dataset", "mnist", "--minutes", "1", "--seeds", "0", "1", "--", "--lr", "1e-3"]
    assert make(repository, "record", "FOREGROUND=1") == []


def test_training_is_detached_and_generating_is_not(repository: FakeRepository) -> None:
    assert make(repository, "train_flow", "ARGS=--seed 3", LAUNCH_WITH="nohup") == ["--seed", "3"]
    assert len(list(repository.launch.glob("*/argv"))) == 1
    assert make(repository, "generate", "ARGS=--run 'a b'") == ["--run", "a b"]
    assert len(list(repository.launch.glob("*/argv"))) == 1


def test_schedules_are_drawn_in_the_foreground(repository: FakeRepository) -> None:
    assert make(repository, "visualize_schedules", "ARGS=--out 'a b.pdf'") == ["--out", "a b.pdf"]
    assert not repository.launch.exists()


def test_the_monitor_of_a_session_is_followed(repository: FakeRepository) -> None:
    done = repository.run("make", "monitor")
    assert done.returncode != 0 and "no session is running" in done.stderr
    _, second = (repository.serve(LAUNCH_WITH="nohup") for _ in range(2))
    done = repository.run("make", "monitor")
    assert done.returncode != 0 and "make monitor ARGS=" in done.stderr
    assert repository.run("make", "monitor", "ARGS=other").returncode != 0
    shown = repository.run("timeout", "3", "make", "monitor", f"ARGS={second}")
    assert f"{second}.monitor.csv" in shown.stderr and "time,cpu_percent,memory_mib" in shown.stdout
    assert repository.run("make", "stop", "ARGS=--all").returncode == 0


@pytest.mark.parametrize(
    ("args", "env", "words"),
    [
        ("", {}, ["--logdir", "experiments"]),
        ("--port 6007", {"EXPERIMENTS_DIR": "my runs"}, ["--logdir", "my runs", "--port", "6007"]),
        ("--logdir 'a b'", {"EXPERIMENTS_DIR": "empty"}, ["--logdir", "empty", "--logdir", "a b"]),
    ],
)
def test_tensorboard_shows_the_runs(
    args: str, env: dict[str, str], words: list[str], repository: FakeRepository
) -> None:
    done = repository.run("make", "tensorboard", **env)
    assert done.returncode != 0 and "no run in" in done.stderr and not repository.out.exists()
    for folder in ("experiments", "my runs"):
        (repository.root / folder / "20260208_143052-flow-mnist" / "tensorboard").mkdir(parents=True)
    (repository.root / "tensorboard").mkdir()
    (repository.root / "tensorboard" / "main.py").write_text(TASK)
    assert make(repository, "tensorboard", f"ARGS={args}", **env) == words


def test_a_wrong_flag_of_tensorboard_is_one_line(repository: FakeRepository) -> None:
    (repository.root / "experiments" / "20260208_143052-flow-mnist" / "tensorboard").mkdir(parents=True)
    (repository.root / "tensorboard").mkdir()
    lines = ["import argparse", "parser = argparse.ArgumentParser(prog='tensorboard')"]
    lines += [f"parser.add_argument('--{name}')" for name in ("logdir", *(f"a_long_flag_{n}" for n in range(9)))]
    lines += ["parser.add_subparsers().add_parser('serve')", "parser.parse_args()"]
    (repository.root / "tensorboard" / "main.py").write_text("\n".join(lines))
    done = repository.run("scripts/sh/tensorboard.sh", "--prot", "6007")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: TensorBoard: argument {serve}: invalid choice: '6007' (choose from 'serve'); "
        "its flags: make tensorboard ARGS=--helpfull\n"
    )


def test_make_stop_names_a_session(repository: FakeRepository) -> None:
    first, second = (repository.serve(LAUNCH_WITH="nohup") for _ in range(2))
    assert repository.run("make", "stop").returncode != 0
    assert repository.run("make", "stop", f"ARGS={second}").returncode == 0
    assert repository.run("make", "sessions").stdout.splitlines()[1].split()[0] == first
    assert repository.run("make", "stop").returncode == 0


def test_clean_keeps_runs_data_and_environment(repository: FakeRepository) -> None:
    remaining = [".venv/__pycache__/a.pyc", "experiments/run/status.json", "data/store/MNIST/raw/a", "models/a.py"]
    deleted = ["models/__pycache__/a.pyc", ".pytest_cache/a", ".ruff_cache/a", ".hypothesis/a"]
    for name in remaining + deleted:
        (repository.root / name).parent.mkdir(parents=True, exist_ok=True)
        (repository.root / name).write_text("")
    assert repository.run("make", "clean").returncode == 0
    assert [name for name in remaining + deleted if (repository.root / name).exists()] == remaining


def test_scripts_that_are_called_are_executable() -> None:
    sourced = {"session_records.sh"}
    for script in [*(ROOT / "scripts" / "sh").glob("*.sh"), ROOT / ".ci" / "run"]:
        assert bool(script.stat().st_mode & stat.S_IXUSR) == (script.name not in sourced), script
