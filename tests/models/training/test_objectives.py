"""The evaluation of the denoising objective: its grid is frozen, and every time bin sees all kinds of images."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.losses import DenoisingLoss
from models.diffusion.times import TimeDensity, bin_of
from models.generation import Sampling
from models.model import DenoiserSpec
from models.spaces.pixels import Pixels
from models.training import denoising_objective
from models.training.denoising_objective import DenoisingObjective
from models.training.objectives import rows_to_show


class Zero(nn.Module):
    """Network that always returns zero."""

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.zeros_like(noisy)


@pytest.fixture
def objective() -> DenoisingObjective:
    spec = DenoiserSpec("unet", {}, Pixels((1, 8, 8), 0.5), 0, (), "flow", 0, False, "flow", 0.0)
    images = torch.arange(200).view(200, 1, 1, 1).expand(200, 1, 8, 8).to(torch.uint8)  # sorted by brightness
    labels = torch.zeros(200, dtype=torch.int64)
    loss = DenoisingLoss("l2", "uniform", None, TimeDensity("uniform"), 0.0, 0)
    return DenoisingObjective(spec, loss, None, images, labels, images, labels, Sampling(), 4, 0)


def test_times_do_not_follow_the_order_of_the_images(objective: DenoisingObjective) -> None:
    _, t, _ = objective._losses(Zero(), objective.test_images, objective.test_labels)
    order = torch.arange(200).double()
    assert abs(torch.corrcoef(torch.stack([order, t]))[0, 1]) < 0.25
    assert torch.equal(torch.bincount(bin_of(t), minlength=10), torch.full((10,), 20))


def test_the_grid_is_frozen_and_its_loss_is_the_formula(objective: DenoisingObjective) -> None:
    """The loss of a network that returns zero is the mean square of noise - clean."""
    first, second = objective.evaluate(Zero()), objective.evaluate(Zero())
    assert first == second and first.test == first.train
    clean = objective.spec.space.encode(objective.test_images)
    assert first.test == pytest.approx(1 + clean.square().mean().item(), rel=0.05)
    assert len(first.parts) == 10


@pytest.mark.parametrize(
    ("labels", "count", "rows"),
    [
        ([0, 0, 0, 1, 1, 2], 4, [0, 3, 5, 1]),
        ([2, 2, 0, 0], 2, [2, 0]),
        ([1, 0], 9, [1, 0]),
        ([0] * 9, 3, [0, 4, 8]),
        ([5], 2, [0]),
    ],
)
def test_pictures_show_the_classes_in_turn(labels: list[int], count: int, rows: list[int]) -> None:
    assert rows_to_show(torch.tensor(labels), count).tolist() == rows


@pytest.mark.parametrize(("classes", "rows"), [(1, 8), (3, 8), (10, 10), (20, 20), (47, 20)])
@pytest.mark.parametrize("conditional", [True, False])
def test_the_forward_process_shows_every_class_of_a_sorted_split(
    classes: int, rows: int, conditional: bool, objective: DenoisingObjective, tmp_path: Path, monkeypatch
) -> None:
    strips = []
    monkeypatch.setattr(denoising_objective.sheets, "strip", lambda *parts: strips.append(parts[:4]))
    monkeypatch.setattr(denoising_objective.image_files, "save_with", lambda *parts: None)
    labels = torch.arange(200) * classes // 200
    names = tuple(f"class {k}" for k in range(classes)) if conditional else ()
    spec = replace(objective.spec, class_names=names, classes=len(names))
    replace(objective, spec=spec, test_labels=labels).draw_forward(tmp_path / "forward.png")
    ((frames, captions, title, row_titles),) = strips
    shown = labels[frames[0].flatten(1)[:, 0].long()]  # an image's brightness is its row
    assert len(shown) == rows and len(shown.unique()) == min(classes, 20) and shown.max() == classes - 1
    assert row_titles == ([names[label] for label in shown] if conditional else [])
    assert captions[0] == "t = 0.00" and captions[-1] == "t = 1.00" and ("of 47 classes" in title) == (classes > 20)


def test_columns_of_the_forward_process_differ_on_every_schedule(objective: DenoisingObjective, monkeypatch) -> None:
    """Equal steps of t would end in several columns of pure noise on a cosine or linear chain."""
    strips = []
    monkeypatch.setattr(denoising_objective.sheets, "strip", lambda *parts: strips.append(parts[:4]))
    monkeypatch.setattr(denoising_objective.image_files, "save_with", lambda *parts: None)
    for schedule, steps in (("cosine", 1000), ("linear", 200), ("linear", 4), ("flow", 0)):
        spec = replace(objective.spec, noise_schedule=schedule, timesteps=steps, prediction="v")
        replace(objective, spec=spec).draw_forward(Path("forward.png"))
        frames = strips.pop()[0]
        assert len(frames) == (5 if steps == 4 else 11)
        changes = [(one.int() - other.int()).abs().float().mean().item() for one, other in pairwise(frames)]
        assert min(changes) > 2
