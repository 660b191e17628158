"""pyproject.toml lists every package of the repository, and its dependencies are those of requirements.txt."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_listed_and_nothing_else() -> None:
    patterns = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    for top in ("models", "data", "scripts", "tests"):
        for path in (REPOSITORY / top).rglob("__init__.py"):
            name = ".".join(path.parent.relative_to(REPOSITORY).parts)
            assert any(fnmatch(name, pattern) for pattern in patterns) == (top != "tests"), name


def test_dependencies_are_read_from_files_that_setuptools_can_read() -> None:
    dynamic = PROJECT["tool"]["setuptools"]["dynamic"]
    named = [dynamic["dependencies"], *dynamic["optional-dependencies"].values()]
    files = [file for section in named for file in section["file"]]
    assert "requirements.txt" in files and len(files) == len(set(files))
    for file in files:
        lines = (REPOSITORY / file).read_text(encoding="utf-8").splitlines()
        assert all(line.startswith("#") or ">=" in line for line in lines if line), file
