"""The architecture as a test: imports go down only, libraries stay where they belong, importing has no side effects."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# From the top down, a folder or module of the library a line. Each may import itself and what stands below it.
LAYERS = (
    "training",
    "export",
    "report",
    "evaluation",
    "optim",
    "generation",
    "model",
    "spaces",
    "autoencoders",
    "networks",
    "drawing",
    "runs",
    "diffusion",
    # The ground with torch, then without.
    "devices",
    "distributed",
    "recording",
    "randomness",
    "progress",
    "processes",
    "variants",
    "learning_rate",
    "ranges",
    "places",
    "class_names",
    "errors",
)
GROUND = {
    "class_names",
    "progress",
    "processes",
    "variants",
    "ranges",
    "places",
    "errors",
}  # what `data` and `models.runs` may import of the library
SOURCES = sorted(path for folder in ("models", "data", "scripts") for path in (REPOSITORY / folder).rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def part_of(module: str) -> str:
    """The part of the library that a dotted name belongs to, as in models.PART.module."""
    return module.split(".")[1]


def test_every_part_of_the_library_has_its_line() -> None:
    folder = REPOSITORY / "models"
    parts = {path.name.removesuffix(".py") for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert sorted(parts - {"__init__", "__pycache__", "pretrained"}) == sorted(LAYERS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_go_down_only(path: Path) -> None:
    package, *rest = path.relative_to(REPOSITORY).with_suffix("").parts
    imported = imports_of(path)
    ours = {name for name in imported if name.split(".")[0] in ("models", "data", "scripts")}
    of_library = {part_of(name) for name in ours if name.startswith("models.")}
    if package == "data":
        assert not any(name.startswith("scripts") for name in ours)
        assert of_library <= GROUND
    if package == "models" and rest != ["__init__"]:
        part = rest[0]
        assert all(name.startswith("models") for name in ours), "only scripts may import data"
        assert all(LAYERS.index(part) <= LAYERS.index(other) for other in of_library)
        if part == "runs" and rest[-1] != "checkpoints":
            assert of_library <= {"runs", *GROUND} and "torch" not in {name.split(".")[0] for name in imported}
        if part == "diffusion":
            below = LAYERS[LAYERS.index("diffusion") :]
            assert of_library <= set(below)
            assert {name.split(".")[0] for name in imported} <= {"models", "torch", "scipy", *sys.stdlib_module_names}
    if rest[0] != "distributed" if package == "models" else True:
        assert not any(name.startswith("torch.distributed") for name in imported)


def test_no_task_imports_another() -> None:
    tasks = {path.stem for path in (REPOSITORY / "scripts").glob("*.py")} - {"__init__"}
    for task in tasks:
        imported = imports_of(REPOSITORY / "scripts" / f"{task}.py")
        assert not {f"scripts.{other}" for other in tasks} & imported, task


@pytest.mark.slow
@pytest.mark.parametrize("package", ["data", "models", "models.training.loop", "scripts.tasks.generation"])
def test_importing_touches_neither_network_nor_disk(package: str, tmp_path: Path) -> None:
    """A hook on every open for writing and on every socket, in a folder that must stay empty."""
    code = f"""
import sys
def watch(event, arguments):
    if event.startswith("socket.connect") or event in ("os.mkdir", "os.rename", "os.remove"):
        raise SystemExit(f"{{event}} {{arguments}}")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        raise SystemExit(f"{{event}} {{arguments}}")
import torch, numpy, safetensors.torch, yaml, PIL.Image
sys.addaudithook(watch)
import {package}
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
