"""doctor: each thing that is not well has a line, and a line that says what to type."""

from __future__ import annotations

import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts import doctor
from tests.commands.tasks import Ended, run_here


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(*words: object) -> Ended:
        return run_here("doctor", "--experiments_dir", tmp_path / "runs", *words, capsys=capsys)

    return run


def lines_of(ended: Ended, subject: str) -> str:
    """Return the line of a subject with the line below it."""
    lines = ended.out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.split()[1] == subject)
    return " ".join(lines[at : at + 2])


def test_a_machine_on_which_the_tests_run_is_well(run, tmp_path: Path) -> None:
    (tmp_path / "data" / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "cifar-10-python.tar.gz").write_bytes(b"")
    done = run("--data_root", tmp_path / "data")
    assert done.code == 0 and "missing" not in done.out
    assert f"in {tmp_path / 'data'}: mnist, cifar10" in done.out and "fashion_mnist, emnist" in lines_of(done, "data")
    assert torch.__version__ in lines_of(done, "torch") and "DejaVu Sans" in done.out
    assert not (tmp_path / "runs").exists()


def test_packages_that_are_missing_or_too_old(run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "rich":
            raise metadata.PackageNotFoundError(name)
        return {"torch": "2.10.1+cpu", "pillow": "11.0"}.get(name, real(name))

    monkeypatch.setattr(doctor.metadata, "version", version)
    done = run()
    line = lines_of(done, "packages")
    assert done.code == 1 and line.startswith("missing") and "make setup" in line
    assert "rich" in line and "torch 2.10.1+cpu, older than" in line and "pillow" not in line


def test_no_screen_a_full_disk_and_a_folder_that_cannot_be_written(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(2**40, 2**40, 2**30))
    done = run()
    assert done.code == 0 and "install screen" in lines_of(done, "sessions")
    assert "1 GiB free" in lines_of(done, "runs") and "EXPERIMENTS_DIR" in lines_of(done, "runs")
    refused = run("--experiments_dir", "/proc/runs")
    assert refused.code == 1 and "cannot be written" in lines_of(refused, "runs")


def test_a_gpu_that_torch_cannot_use(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def nvidia_smi(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 0, "535.129.03\n535.129.03\n", "")

    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr(doctor.subprocess, "run", nvidia_smi)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    line = lines_of(run(), "torch")
    assert "the GPUs are hidden" in line and "delete" not in line
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    line = lines_of(run(), "torch")
    assert "cannot use the GPU with driver 535.129.03" in line and "TORCH_BACKEND=auto make setup" in line
