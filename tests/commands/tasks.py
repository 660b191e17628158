"""How the tests of real commands run them: tiny settings, in this process where possible, as a child where not."""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from data import ImageData, Split
from models.runs import checkpoints
from models.variants import DATA_SETS

PARALLEL = ("distill", "train_ddpm", "train_flow", "train_latent", "train_vae", "generate", "evaluate")
REPOSITORY = Path(__file__).resolve().parents[2]
TINY = (
    *("--network.width", "8", "--network.multipliers", "1", "2"),
    *("--batch_size", "16", "--max_steps", "6", "--warmup_steps", "2", "--eval_images", "16"),
    *("--num_samples", "10", "--steps", "2", "--no-tensorboard"),
)

TINY_VAE = (
    *("--network.width", "8", "--network.latent_shape", "2", "4", "4", "--batch_size", "16", "--max_steps", "6"),
    *("--warmup_steps", "2", "--eval_images", "32", "--no-tensorboard", "--no-umap"),
)


@dataclass(frozen=True)
class Ended:
    """How a task ended: its exit code, its one line, and what it told the person."""

    code: int
    out: str
    err: str

    @property
    def folder(self) -> Path:
        lines = self.out.splitlines()
        assert self.code == 0, self.err
        assert len(lines) == 1, self.out
        return Path(lines[0])


def run_here(task: str, *arguments: object, capsys: pytest.CaptureFixture[str]) -> Ended:
    """The task in this process, through its real entry."""
    from scripts.cli.command import run_command

    main = importlib.import_module(f"scripts.{task}").main
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [task, *(str(word) for word in arguments)])
        with pytest.raises(SystemExit) as ended:
            run_command(main, parallel=task in PARALLEL)
    captured = capsys.readouterr()
    return Ended(int(str(ended.value.code)), captured.out, captured.err)


def start_child(task: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The task as a process of its own, in one thread. HUP and INT end it."""
    return start_module(f"scripts.{task}", *arguments, **options)


def start_module(module: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The same of any module."""
    env = options.pop("env", os.environ)
    return subprocess.Popen(
        [sys.executable, "-m", module, *(str(word) for word in arguments)],
        cwd=REPOSITORY,
        env={**env, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def start_several(processes: int, module: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A module in several processes of this machine, in one thread each."""
    return start_module("models.distributed", "--nproc-per-node", processes, "-m", module, *arguments, **options)


def run_child(task: str, *arguments: object, **options: Any) -> Ended:
    process = start_child(task, *arguments, **options)
    out, err = process.communicate(timeout=300)
    return Ended(process.returncode, out, err)


def tiny_classifier(folder: Path) -> Path:
    """The file of a network that has seen the digits for a moment."""
    from scripts import train_classifier

    path = folder / "network.safetensors"
    train_classifier.main(["--epochs", "2", "--out", str(path)])
    return path


def status_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "status.json").read_text())


def rows_of(folder: Path, evaluated: bool = True) -> list[dict[str, str]]:
    """The rows of metrics.csv that have a test loss, or all rows."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["test_loss"] or not evaluated]


def weights_hash(folder: Path) -> str:
    """A hash of every tensor of the last checkpoint: weights, average and optimizer."""
    tensors, _ = checkpoints.load_checkpoint(checkpoints.resolve_checkpoint(folder))
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].contiguous().numpy().tobytes())
    return digest.hexdigest()


def grey_folder(folder: Path, height: int, width: int) -> tuple[object, ...]:
    """The flags of a data set of grey images of this size, which are written into a folder."""
    folder.mkdir()
    for k in range(8):
        Image.new("L", (width, height), 90).save(folder / f"{k}.png")
    return "--dataset", "folder", "--dataset.path", folder, "--dataset.channels", 1, "--dataset.test_share", 0.5


def tiny_data(name: str) -> ImageData:
    """32 random images of the real shape and classes."""
    shape = (3, 32, 32) if name == "cifar10" else (1, 28, 28)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, *shape), generator=generator).to(torch.uint8)
    split = Split(images, torch.arange(32) % 10)
    return ImageData(name, split, split, class_names=tuple("0123456789"), flips=name == "cifar10")


def use_tiny_data(patch: pytest.MonkeyPatch) -> None:
    """Every data set of the official ones is then `tiny_data`."""
    for name in ("digits", "mnist", "fashion_mnist", "emnist", "cifar10"):
        patch.setattr(DATA_SETS.find(name), "load", lambda self, root, name=name: tiny_data(name))
