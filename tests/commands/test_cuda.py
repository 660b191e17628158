"""Training and sampling on a GPU: steps wait for nothing, recorded steps are the eager ones, networks learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from models.diffusion.denoiser import NetworkDenoiser
from models.diffusion.recorded import RecordedDenoiser
from models.generation import sample
from models.randomness import image_draw
from models.recording import Recorder
from models.runs.run import Run
from models.training.loop import Trainer
from models.training.plan import PlanBuffer
from scripts.cli.arguments import parse_flags
from scripts.cli.flags import FLOW
from scripts.tasks.denoising import assemble, complete
from scripts.tasks.training import load_data, resolve_flags
from tests.commands.tasks import TINY, rows_of, run_here

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def build(tmp_path: Path, *words: str) -> Trainer:
    argv = [*words, "--device", "cuda", "--batch_size", "16", "--max_steps", "1000"]
    flags = complete(resolve_flags(parse_flags(argv, FLOW, "train_flow", "")))
    return assemble(flags, load_data(flags, flags.run.experiments_dir)).trainer(
        Run.create(tmp_path, "train_flow", "digits", None)
    )


@pytest.mark.parametrize("graph", ["on", "off"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("network", ["unet", "dit", "convnext"])
def test_a_step_waits_for_nothing(optimizer: str, network: str, graph: str, tmp_path: Path) -> None:
    trainer = build(tmp_path, "--network", network, "--optimizer", optimizer, "--graph", graph)
    for _ in range(8):  # the fourth step is recorded
        trainer.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            trainer.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.check()


@pytest.mark.parametrize("words", [(), ("--accumulate", "2"), ("--network.dropout", "0.2", "--label_drop", "0.3")])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("network", ["unet", "dit", "convnext"])
def test_recorded_steps_are_the_eager_ones(
    network: str, optimizer: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    shared = ("--network", network, "--optimizer", optimizer, "--precision", "float32", *words)
    trainers = [build(tmp_path, *shared, "--graph", graph) for graph in ("on", "off")]
    for trainer in trainers:
        for _ in range(50):
            trainer.train_step()
        trainer.check()
    recorded, eager = (trainer.stepper.recorders for trainer in trainers)
    assert all(part.graph is not None for part in recorded) and all(part.graph is None for part in eager)
    for one, other in zip(*(trainer.network.parameters() for trainer in trainers), strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm() + 1e-6


def test_each_replay_finds_its_own_plan() -> None:
    """500 plans are sent without waiting. Each replay writes a checksum of its plan."""
    device, steps = torch.device("cuda"), 500
    buffer, sums = PlanBuffer(device), torch.zeros(steps, dtype=torch.int64, device=device)
    plan: dict[str, torch.Tensor] = {}
    recorder = Recorder(lambda: sums.index_add_(0, plan["step"], plan["rows"].sum().view(1)), {}, None, print)
    expected = []
    for step in range(steps):
        rows = torch.randint(0, 1_000_000, (4096,), generator=torch.Generator().manual_seed(step))
        plan |= buffer.send({"rows": rows, "step": torch.tensor([step])})
        recorder()
        expected.append(int(rows.sum()))
    assert sums.tolist() == expected and recorder.graph is not None


def test_the_memory_of_recorded_steps_does_not_grow(tmp_path: Path) -> None:
    trainer = build(tmp_path)
    allocated = []
    for steps in (20, 200):
        for _ in range(steps):
            trainer.train_step()
        trainer.check()
        allocated.append(torch.cuda.memory_allocated())
    assert allocated[0] == allocated[1]


def test_a_batch_that_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written, and the batch of the message fits."""
    torch.cuda.set_per_process_memory_fraction(0.02)
    words = ("--experiments_dir", tmp_path, *TINY, "--device", "cuda", "--network.width", "64", "--max_steps", 2)
    try:
        refused = run_here("train_flow", *words, "--batch_size", 400_000, capsys=capsys)
        assert refused.code == 2 and not list(tmp_path.iterdir()), refused.err
        fitting = refused.err.split("--batch_size ")[-1].split()[0]
        assert run_here("train_flow", *words, "--batch_size", fitting, capsys=capsys).code == 0
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_recorded_samples_are_the_eager_ones(tmp_path: Path) -> None:
    model = cast(Any, build(tmp_path, "--precision", "float32").objective).model
    network = build(tmp_path).ema.network
    recorded = model(network)
    eager = replace(recorded, denoiser=NetworkDenoiser(network, recorded.denoiser.prediction))
    assert isinstance(recorded.denoiser, RecordedDenoiser)
    for options in ({"steps": 12}, {"steps": 8, "guidance_scale": 2.0}, {"sampler": "dpmpp_2m", "steps": 10}):
        images = [sample(each, 10, batch_size=10, **cast(Any, options)).int() for each in (recorded, eager)]
        assert (images[0] - images[1]).abs().max() <= 1


def test_image_noise_is_that_of_the_cpu() -> None:
    noises = [image_draw(3, range(64), torch.device(device))((64, 1, 28, 28)).cpu() for device in ("cuda", "cpu")]
    torch.testing.assert_close(*noises, rtol=0, atol=1e-6)


@pytest.mark.parametrize("flags", [(), ("--compile",), ("--precision", "float32"), ("--graph", "off")])
def test_it_learns_and_generates(flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ("--experiments_dir", tmp_path)
    task = (*runs, *TINY, "--max_steps", 200, "--lr", "1e-2", "--eval_every", "0.5", "--device", "cuda", *flags)
    folder = run_here("train_flow", *task, capsys=capsys).folder
    losses = [float(row["test_loss"]) for row in rows_of(folder)]
    assert losses[-1] < 0.8 * losses[0]
    made = run_here("generate", *runs, "--run", folder, "--device", "cuda", "--num_samples", 20, capsys=capsys).folder
    assert (made / "grid.png").is_file()
