"""On a GPU: a training step waits for nothing, bf16 and compiled networks learn, and samples come out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.runs.run import Run
from scripts.cli.arguments import parse_flags
from scripts.cli.flags import FLOW
from scripts.tasks.denoising import assemble, complete
from scripts.tasks.training import load_data, resolve_flags
from tests.commands.tasks import TINY, rows_of, run_here

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("network", ["unet", "dit", "convnext"])
def test_a_step_waits_for_nothing(optimizer: str, network: str, tmp_path: Path) -> None:
    words = ["--network", network, "--optimizer", optimizer, "--device", "cuda", "--batch_size", "16"]
    flags = complete(resolve_flags(parse_flags(words, FLOW, "train_flow", "")))
    trainer = assemble(flags, load_data(flags)).trainer(Run.create(tmp_path, "train_flow", "digits", None))
    for _ in range(3):
        trainer.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            trainer.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.check()


@pytest.mark.parametrize("flags", [(), ("--compile",), ("--precision", "float32")])
def test_it_learns_and_generates(flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ("--experiments_dir", tmp_path)
    task = (*runs, *TINY, "--max_steps", 200, "--lr", "1e-2", "--eval_every", "0.5", "--device", "cuda", *flags)
    folder = run_here("train_flow", *task, capsys=capsys).folder
    losses = [float(row["test_loss"]) for row in rows_of(folder)]
    assert losses[-1] < 0.8 * losses[0]
    made = run_here("generate", *runs, "--run", folder, "--device", "cuda", "--num_samples", 20, capsys=capsys).folder
    assert (made / "grid.png").is_file()
