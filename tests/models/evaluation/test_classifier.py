"""The classifier: right on what is easy, kept and read back, trained again for other data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.evaluation import classifier as module
from models.evaluation.classifier import FEATURES, Classifier, classifier_for
from models.evaluation.recognition import diversity


def halves(count: int, shape: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images that are bright above (0) or below (1)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    images = torch.randint(0, 120, (count, *shape), generator=generator)
    half = shape[1] // 2
    images[labels == 0, :, :half] += 100
    images[labels == 1, :, half:] += 100
    return images.to(torch.uint8), labels


def make(folder: Path, shape: tuple[int, int, int], data_hash: str = "a") -> tuple[Classifier, list[str]]:
    told: list[str] = []
    made = classifier_for(
        folder, data_hash, halves(256, shape, 0), halves(100, shape, 1), 2, torch.device("cpu"), told.append
    )
    return made, told


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 36)])
def test_it_learns_is_kept_and_answers_alike(
    shape: tuple[int, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEPS", 25)
    first, told = make(tmp_path / "kept", shape)
    assert first.accuracy > 0.95 and told
    again, silent = make(tmp_path / "kept", shape)
    assert not silent and again.accuracy == first.accuracy
    images, labels = halves(30, shape, 2)
    features, found = again.read(images)
    assert features.shape == (30, FEATURES) and (found == labels).float().mean() > 0.9
    torch.testing.assert_close(features, first.read(images)[0])


def test_other_data_and_broken_files_are_trained_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 2)
    make(tmp_path, (1, 8, 8))
    assert make(tmp_path, (1, 8, 8), "b")[1]
    for path in tmp_path.iterdir():
        path.write_bytes(b"no weights")
    assert make(tmp_path, (1, 8, 8))[1] and not make(tmp_path, (1, 8, 8))[1]
    assert len(list(tmp_path.iterdir())) == 2


def test_diversity() -> None:
    """Unit vectors at right angles are sqrt(2) apart; longer ones are no more diverse, and single ones say nothing."""
    features = torch.tensor([[1.0, 0.0], [0.0, 9.0], [1.0, 1.0], [2.0, 2.0], [5.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert diversity(features, labels) == pytest.approx(2**0.5 / 2)
    assert diversity(features[:2], labels[:2]) == pytest.approx(2**0.5)
