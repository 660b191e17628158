"""The architecture as a test: imports go down only, libraries stay where they belong, importing has no side effects."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# From the ground up. A module may import its own layer and those below it.
LAYERS = (
    {"errors", "files", "variants"},
    {"checkpoint", "distributed", "run"},
    {"noise_schedules", "times", "predictions", "randomness", "initial_noise", "flow_time"},
    {"conditioning"},
    {"networks"},
    {"denoiser", "spaces", "autoencoders", "encoded"},
    {"samplers", "guidance", "losses", "inversion", "inpainting"},
    {
        *("autoencoder_objective", "budget", "build", "ema", "evaluation"),
        *("generation", "interrupts", "objectives", "optim"),
        *("figures", "latent_space", "pictures", "plots", "progress", "training", "training_log"),
    },
)
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


def layer_of(module: str) -> int:
    (layer,) = (index for index, names in enumerate(LAYERS) if module in names)
    return layer


def module_of(path: Path) -> str:
    """The part of `models` that a file belongs to."""
    return path.relative_to(REPOSITORY / "models").parts[0].removesuffix(".py")


def test_every_part_of_the_library_has_one_layer() -> None:
    parts = {module_of(path) for path in (REPOSITORY / "models").rglob("*.py")} - {"__init__"}
    assert parts == set().union(*LAYERS)
    assert len(parts) == sum(len(names) for names in LAYERS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_go_down_only(path: Path) -> None:
    package = path.relative_to(REPOSITORY).parts[0]
    imported = imports_of(path)
    ours = {name for name in imported if name.split(".")[0] in ("models", "data", "scripts")}
    if package == "data":
        assert all(name.startswith("data") for name in ours)
    if package == "models" and module_of(path) != "__init__":
        assert all(name.startswith("models") for name in ours), "only scripts may import data"
        below = {name.split(".")[1] for name in ours if "." in name}
        assert all(layer_of(name) <= layer_of(module_of(path)) for name in below)
    if module_of(path) != "distributed" if package == "models" else True:
        assert not any(name.startswith("torch.distributed") for name in imported)


@pytest.mark.parametrize("package", ["data", "models", "models.training", "scripts.generate"])
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
