"""Tests of setup.sh: it creates the environment once, and an interrupted installation does not count as complete.

The requirements are empty here and the package index cannot be reached, so nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.commands.fake_repository import FakeRepository, fake_repository, path_without

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "UV_OFFLINE": "1"}


def setup(repository: FakeRepository, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    return repository.run("scripts/sh/setup.sh", *flags, **(OFFLINE | env))


def change_requirements(repository: FakeRepository, text: str = "") -> None:
    """Change the content of the requirements, so that the environment is out of date."""
    (repository.root / "requirements-dev.txt").write_text(f"# {time.monotonic_ns()}\n{text}")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRepository]:
    """A repository in which setup.sh has created a real environment."""
    with fake_repository(tmp_path_factory.mktemp("setup")) as made:
        shutil.rmtree(made.root / ".venv")
        done = setup(made)
        assert done.returncode == 0, done.stderr
        yield made


def stamp(repository: FakeRepository) -> Path:
    return repository.root / ".venv" / "installed"


def test_it_makes_an_environment_that_works(repository: FakeRepository) -> None:
    prefix = [".venv/bin/python", "-c", "import sys, pip; print(sys.prefix)"]
    assert repository.run(*prefix).stdout.strip() == str(repository.root / ".venv")
    assert stamp(repository).read_text().startswith("Python 3.")


def test_a_second_call_installs_nothing(repository: FakeRepository) -> None:
    assert setup(repository).returncode == 0
    before = stamp(repository).stat().st_mtime_ns
    done = setup(repository)
    assert (done.returncode, done.stdout) == (0, "")
    assert "installing" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("ready: .venv, Python 3.")
    assert stamp(repository).stat().st_mtime_ns == before
    assert setup(repository, "--quiet").stderr == ""


def test_changed_requirements_are_installed(repository: FakeRepository) -> None:
    change_requirements(repository)
    assert "installing" in setup(repository, "--quiet").stderr
    assert setup(repository, "--quiet").stderr == ""


def test_two_at_once_install_once(repository: FakeRepository) -> None:
    change_requirements(repository)
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: setup(repository), range(2)))
    assert [call.returncode for call in done] == [0, 0]
    assert sum("installing" in call.stderr for call in done) == 1


def test_a_package_that_cannot_be_installed_leaves_no_stamp(repository: FakeRepository) -> None:
    change_requirements(repository, "no-such-package-anywhere>=1")
    for _ in range(2):
        done = setup(repository)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("error: the packages of requirements-dev.txt could not be")
        assert not stamp(repository).exists()
    change_requirements(repository)
    assert setup(repository).returncode == 0


def test_a_killed_installation_leaves_no_stamp_and_can_be_repeated(repository: FakeRepository, tmp_path: Path) -> None:
    change_requirements(repository)
    with socket.create_server(("127.0.0.1", 0)) as index:  # accepts connections, but never answers
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        env = repository.env | {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": url, "NO_PROXY": "127.0.0.1"}
        env["TMPDIR"] = str(tmp_path)  # pip leaves temporary files when it is killed
        command = ["scripts/sh/setup.sh"]
        started = subprocess.Popen(
            command, cwd=repository.root, env=env, start_new_session=True, stderr=subprocess.PIPE
        )
        index.settimeout(180)
        index.accept()
        os.killpg(started.pid, signal.SIGKILL)
        started.communicate()
    assert not stamp(repository).exists()
    done = setup(repository)
    assert done.returncode == 0, done.stderr
    assert "installing" in done.stderr


def test_an_environment_without_its_python_is_created_again(repository: FakeRepository) -> None:
    (repository.root / ".venv" / "bin" / "python").unlink()
    (repository.root / ".venv" / "bin" / "python").symlink_to("/nowhere/python3.11")
    done = setup(repository)
    assert done.returncode == 0, done.stderr
    assert "creating .venv with Python 3." in done.stderr


def test_without_a_python_that_is_new_enough_it_says_so(tmp_path: Path) -> None:
    path = path_without(tmp_path / "bin", "python*")
    old = tmp_path / "bin" / "python3"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.exit(1)"\n')
    old.chmod(0o755)
    with fake_repository(tmp_path) as repository:
        shutil.rmtree(repository.root / ".venv")
        done = setup(repository, PATH=path)
        assert done.returncode == 1
        assert "error: no Python >= 3.11 on PATH" in done.stderr.splitlines()[-1]
        assert not (repository.root / ".venv").exists()


def test_a_folder_that_is_no_environment_is_not_overwritten(tmp_path: Path) -> None:
    with fake_repository(tmp_path) as repository:
        shutil.rmtree(repository.root / ".venv")
        (repository.root / ".venv").mkdir()
        (repository.root / ".venv" / "precious").write_text("mine")
        done = setup(repository)
        assert done.returncode == 1
        assert "is not a virtual environment: move it elsewhere" in done.stderr.splitlines()[-1]
        assert (repository.root / ".venv" / "precious").read_text() == "mine"


def test_missing_tools_are_named_with_the_command(repository: FakeRepository, tmp_path: Path) -> None:
    done = setup(repository, PATH=path_without(tmp_path / "bin", "screen"))
    assert done.returncode == 0
    assert "screen is missing" in done.stderr
    assert "install screen" in done.stderr
