"""Imports at run time: run folders load without torch, and the mathematics loads only the modules below it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
GROUND = {"devices", "distributed", "recording", "randomness", "progress", "processes", "variants", "ranges", "errors"}


def modules_of(package: str) -> list[str]:
    folder = REPOSITORY.joinpath(*package.split("."))
    return [package, *(f"{package}.{path.stem}" for path in sorted(folder.glob("[a-z]*.py")))]


def loaded_by(*modules: str) -> set[str]:
    """Return the names in sys.modules after a new process has imported these modules."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    return set(subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("module", [name for name in modules_of("models.runs") if not name.endswith(".checkpoints")])
def test_run_folders_load_without_torch(module: str) -> None:
    assert "torch" not in loaded_by(module)


def test_the_mathematics_loads_torch_and_the_ground_only() -> None:
    modules = modules_of("models.diffusion")
    loaded = loaded_by(*modules)
    assert len(modules) > 8 and {"torch", *modules} <= loaded
    ours = {name for name in loaded if name.startswith("models.") and not name.startswith("models.diffusion")}
    assert ours <= {f"models.{name}" for name in GROUND}
    assert not {"yaml", "PIL", "matplotlib", "rich"} & loaded
