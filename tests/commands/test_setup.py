"""Tests of setup.sh: it creates the environment once, and an interrupted installation does not count as complete.

The requirements are empty here and the package index cannot be reached, so nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import platform
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

pytestmark = pytest.mark.slow

VERSION = platform.python_version()
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "UV_OFFLINE": "1"}


def setup(repository: FakeRepository, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    return repository.run("scripts/sh/setup.sh", *flags, **(OFFLINE | env))


def change_requirements(repository: FakeRepository, text: str = "", name: str = "requirements.txt") -> None:
    """Change the content of the requirements, so that the environment is out of date."""
    (repository.root / name).write_text(f"# {time.monotonic_ns()}\n{text}")


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


def test_tests_and_linters_are_installed_on_demand(repository: FakeRepository) -> None:
    change_requirements(repository, name="requirements-dev.txt")
    assert "installing" not in setup(repository).stderr
    assert (
        "installing the packages of requirements.txt requirements-dev.txt"
        in setup(repository, "--quiet", "--dev").stderr
    )
    assert setup(repository, "--quiet", "--dev").stderr == ""
    assert setup(repository, "--quiet").stderr == ""
    change_requirements(repository, name="requirements-dev.txt")
    assert "installing" in setup(repository, "--dev").stderr
    change_requirements(repository)
    assert "installing the packages of requirements.txt" in setup(repository, "--quiet").stderr


def test_make_asks_for_what_each_target_needs(tmp_path: Path) -> None:
    with fake_repository(tmp_path) as repository:
        (repository.root / "scripts" / "sh" / "setup.sh").write_text('#!/bin/sh\necho "setup $*" >&2; exit 3\n')
        for target, flags in {"train_flow": "", "status": "", "test": " --dev", "lint": " --dev"}.items():
            assert repository.run("make", target).stderr.splitlines()[0] == f"setup --quiet{flags}"
        assert repository.run("make", "setup").stderr.splitlines()[0] == "setup "


def test_the_torch_backend_is_handed_to_uv(repository: FakeRepository, tmp_path: Path) -> None:
    """uv is a stand-in that writes down its arguments: the builds of torch are on an index of their own."""
    called = tmp_path / "called"
    (site,) = (repository.root / ".venv" / "lib").glob("python3*/site-packages")
    uv = site / "uv.py"
    uv.write_text(
        "import os, sys\nif 'pip' in sys.argv: open(os.environ['CALLED'], 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        "sys.exit(int(os.environ.get('UV_CODE', 0)) if 'pip' in sys.argv else 0)\n"
    )
    try:
        for env in ({}, {"TORCH_BACKEND": "cpu"}, {"TORCH_BACKEND": "cu128"}):
            change_requirements(repository)
            done = setup(repository, CALLED=str(called), **env)
            assert done.returncode == 0, done.stderr
        install = "pip install --python .venv/bin/python"
        backends = (" --torch-backend cpu", " --torch-backend cu128")
        expected = [f"{install}{backend} -r requirements.txt" for backend in ("", *backends)]
        assert called.read_text().splitlines() == expected
        done = setup(repository, CALLED=str(called), TORCH_BACKEND="cpu")
        assert "TORCH_BACKEND changes nothing in a complete .venv: delete .venv" in done.stderr
        change_requirements(repository)
        done = setup(repository, CALLED=str(called), TORCH_BACKEND="cpu", UV_CODE="1")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(
            "error: TORCH_BACKEND=cpu: uv could not install requirements.txt"
        )
        assert not stamp(repository).exists()
    finally:
        uv.unlink()
        change_requirements(repository)
        assert setup(repository).returncode == 0


def test_an_existing_environment_is_checked_and_never_changed(tmp_path: Path) -> None:
    with fake_repository(tmp_path) as repository:
        shutil.rmtree(repository.root / ".venv")
        (repository.root / "requirements.txt").write_text("# at run time\nnumpy>=1.0\npytest>=7 # has a comment\n")
        done = setup(repository, PYTHON=sys.executable)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (0, f"ready: {sys.executable}, Python {VERSION}")
        assert setup(repository, "--quiet", PYTHON=sys.executable).stderr == ""
        assert make_fake(repository, "train_flow", f"PYTHON={sys.executable}", "FOREGROUND=1") == []
        (repository.root / "requirements.txt").write_text("numpy>=999.1\nno-such-package>=1\npytest>=7\n")
        for run in (
            lambda: setup(repository, "--quiet", PYTHON=sys.executable),
            lambda: repository.run("make", "train_flow", PYTHON=sys.executable),
        ):
            done = run()
            assert done.returncode == 2
            (line,) = (line for line in done.stderr.splitlines() if not line.startswith("make"))
            assert line.startswith(f"error: PYTHON={sys.executable} lacks numpy>=999.1 (has ")
            assert f"), no-such-package: type {sys.executable} -m pip install -r requirements.txt" in line
        done = setup(repository, PYTHON="no-such-python")
        assert (done.returncode, done.stderr) == (2, "error: PYTHON=no-such-python: there is no such program\n")
        assert not (repository.root / ".venv").exists()


def make_fake(repository: FakeRepository, *words: str) -> list[str]:
    """Run make and return the arguments that the task received."""
    done = repository.run("make", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(repository.out.read_text())


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
        assert done.stderr.splitlines()[-1].startswith("error: the packages of requirements.txt could not be")
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
