"""A batch that does not fit in the memory of a GPU. A GPU is stood in for by steps that fail above some size."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from models.devices import pick_precision
from models.errors import UserError
from models.randomness import StepRandomness
from models.training import memory
from models.training.objectives import Objective
from models.training.stepper import Stepper
from scripts.cli.arguments import parse_flags
from scripts.cli.flags import TrainFlags
from scripts.tasks.denoising import prepare_denoiser
from scripts.tasks.training import Prepared, resolve_flags
from tests.commands.tasks import TINY, run_here, status_of


def prepare(*words: str) -> Prepared:
    flags = parse_flags([*TINY, "--device", "cpu", "--batch_size", "24", *words], TrainFlags(), "train_ddpm", "")
    return prepare_denoiser(resolve_flags(flags), {})


def let_fit(images: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a part of a batch fit if it has at most so many images. Returns the list of tried sizes."""
    tried: list[int] = []

    def noise(self: StepRandomness, shape: Sequence[int], stream: str = "noise") -> torch.Tensor:
        tried.append(self.stop - self.start)
        if tried[-1] > images:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, shape, stream)

    real = StepRandomness.noise
    monkeypatch.setattr(StepRandomness, "noise", noise)
    return tried


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "images", "ways_out"),
    [
        ((), 24, None),
        ((), 12, "keep this batch size with `accumulate` 2, use `batch_size` 12"),
        ((), 7, "keep this batch size with `accumulate` 4, use `batch_size` 6"),
        (("--accumulate", "2"), 7, "keep this batch size with `accumulate` 4, use `batch_size` 12"),
        (("--coupling", "optimal"), 7, "use `batch_size` 6"),
        ((), 0, "use a smaller `network`"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(
    words: tuple[str, ...], images: int, ways_out: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(*words)
    before = [parameter.clone() for parameter in prepared.network.parameters()]
    tried = let_fit(images, monkeypatch)
    if ways_out is None:
        prepared.check_memory()
    else:
        with pytest.raises(UserError) as refused:
            prepared.check_memory()
        assert ", ".join(refused.value.ways_out) == ways_out
        assert tried[-1] <= max(images, 1)  # the batch of the message was tried
    for parameter, value in zip(prepared.network.parameters(), before, strict=True):
        assert parameter.equal(value) and parameter.grad is None


@pytest.mark.parametrize("coupling", ["independent", "optimal"])
def test_memory_that_becomes_full_in_a_step_ends_the_run_with_one_line(
    coupling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    take = Stepper.take

    def fill(self: Stepper, step: int, progress: float) -> None:
        if step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        take(self, step, progress)

    monkeypatch.setattr(Stepper, "take", fill)
    ended = run_here("train_ddpm", *TINY, "--coupling", coupling, "--experiments_dir", tmp_path, capsys=capsys)
    assert ended.code == 2
    line = ended.err.splitlines()[-1]
    assert line.startswith("error: --batch_size 16: the memory of ") and "use a smaller --batch_size" in line
    assert ("--accumulate 2" in line) == (coupling == "independent")
    (run,) = tmp_path.iterdir()
    status = status_of(run)
    assert status["state"] == "failed" and "--batch_size 16: the memory of" in status["reason"]


def test_bf16_on_a_gpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GeForce GTX 1080")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert (pick_precision("auto", gpu), pick_precision("float32", gpu)) == ("float32", "float32")
    with pytest.raises(UserError, match=r"precision bf16: GeForce GTX 1080 has no bf16 units.*float32"):
        pick_precision("bf16", gpu)
    assert pick_precision("bf16", torch.device("cpu")) == "bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert (pick_precision("auto", gpu), pick_precision("bf16", gpu)) == ("bf16", "bf16")


def test_the_copy_of_a_trial_step_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare()
    copies: list[weakref.ref[torch.nn.Module]] = []

    def stepper(objective: Objective, network: torch.nn.Module, *rest: Any) -> Stepper:
        copies.append(weakref.ref(network))
        return Stepper(objective, network, *rest)

    monkeypatch.setattr(memory, "Stepper", stepper)
    prepared.check_memory()
    assert len(copies) == 1 and copies[0]() is None
