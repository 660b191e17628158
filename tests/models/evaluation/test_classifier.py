"""Classifiers: right on what is easy, the same from the same seed, kept and read back, their files checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.errors import UserError
from models.evaluation import classifier as module
from models.evaluation.classifier import (
    Classifier,
    LabelledImages,
    Schooling,
    Subject,
    classifier_for,
    fit_classifier,
    load_classifier,
)
from models.evaluation.feature_networks import NETWORKS
from models.evaluation.recognition import diversity
from models.runs import checkpoints

CPU = torch.device("cpu")


def halves(count: int, shape: tuple[int, int, int], seed: int) -> LabelledImages:
    """Noisy images that are bright above (0) or below (1)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    images = torch.randint(0, 120, (count, *shape), generator=generator)
    half = shape[1] // 2
    images[labels == 0, :, :half] += 100
    images[labels == 1, :, half:] += 100
    return LabelledImages(images.to(torch.uint8), labels)


def make(
    folder: Path, shape: tuple[int, int, int] = (1, 8, 8), sha256: str = "a", schooling: Schooling | None = None
) -> tuple[Classifier, list[str]]:
    told: list[str] = []
    subject = Subject("halves", sha256, halves(256, shape, 0), halves(100, shape, 1), 2)
    made = classifier_for(folder, schooling or Schooling(epochs=1), subject, CPU, told.append)
    return made, told


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 36)])
def test_it_learns_is_kept_and_answers_alike(network: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    schooling = Schooling(network, epochs=12)
    first, told = make(tmp_path / "kept", shape, schooling=schooling)
    assert first.accuracy > 0.95 and told
    again, silent = make(tmp_path / "kept", shape, schooling=schooling)
    assert not silent and again.facts == first.facts and again.name == first.name
    images, labels = halves(30, shape, 2)
    read = again.read(images)
    assert read.features.shape == (30, NETWORKS[network].features) and read.logits.shape == (30, 2)
    assert (read.labels == labels).float().mean() > 0.9
    assert torch.equal(read.features, first.read(images).features)


def test_the_same_seed_gives_the_same_network() -> None:
    shown = halves(256, (1, 8, 8), 0)
    one, same, other = (
        fit_classifier(Schooling(epochs=1, seed=seed), shown, 2, CPU).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["verdict.weight"], other["verdict.weight"])


def read_with_threads(made: Classifier, images: Tensor, threads: int) -> Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return made.read(images).features
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("network", NETWORKS)
def test_images_are_read_alike_in_any_batch_and_by_any_number_of_threads(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = make(tmp_path, (1, 28, 28), schooling=Schooling(network, epochs=0.1))
    images = halves(90, (1, 28, 28), 2).images[:]
    whole = read_with_threads(made, images, 1)
    assert (read_with_threads(made, images, 3) - whole).abs().max() < 1e-12
    monkeypatch.setattr(module, "READ_AT_ONCE", 7)
    assert (read_with_threads(made, images, 1) - whole).abs().max() < 1e-12


def test_other_data_and_broken_files_are_trained_anew(tmp_path: Path) -> None:
    make(tmp_path)
    assert make(tmp_path, sha256="b")[1]
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"no weights")
    assert make(tmp_path)[1] and not make(tmp_path)[1]
    assert len(list(tmp_path.iterdir())) == 4


def test_small_sets_are_shown_more_often() -> None:
    assert Schooling().epochs_for(60_000) == 12
    assert Schooling().epochs_for(3_200) == 600 * 128 / 3_200
    assert Schooling().epochs_for(10) == 100
    assert Schooling(epochs=3).epochs_for(10) == 3


def test_a_file_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    made, _ = make(tmp_path / "kept")
    path = next((tmp_path / "kept").glob("*.safetensors"))
    tensors, facts = checkpoints.load_checkpoint(path)
    for broken, words in (
        ({"network": "vgg"}, "no feature network"),
        ({"classes": "many"}, "no network that can be built"),
        ({"classes": 3}, "does not fit its network"),
    ):
        checkpoints.write_checkpoint(tmp_path / "bad.safetensors", tensors, {**facts, **broken})
        with pytest.raises(UserError, match=words):
            load_classifier(tmp_path / "bad.safetensors", CPU)
    checkpoints.write_checkpoint(tmp_path / "bad.safetensors", tensors, {"network": "convnet"})
    with pytest.raises(UserError, match="no feature network"):
        load_classifier(tmp_path / "bad.safetensors", CPU)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="truncated or altered"):
        load_classifier(path, CPU)
    assert replace(made).name.startswith("convnet_")


def test_images_are_moved_and_mirrored_but_keep_what_they_show() -> None:
    images = halves(64, (1, 28, 28), 3).images[:]
    generator = torch.Generator().manual_seed(0)
    moved = module._moved(images, False, generator)
    assert moved.shape == images.shape and not torch.equal(moved, images)
    slope = torch.arange(28, dtype=torch.uint8).expand(200, 1, 28, 28)
    mirrored = module._moved(slope, True, generator).float()
    falling = (mirrored[:, 0, 0, -1] < mirrored[:, 0, 0, 0]).float().mean()
    assert 0.3 < falling < 0.7
    rising = module._moved(slope, False, generator).float()
    assert (rising.diff(dim=3) >= 0).all()


def test_diversity() -> None:
    """Unit vectors at right angles are sqrt(2) apart; longer ones are no more diverse, and single ones say nothing."""
    features = torch.tensor([[1.0, 0.0], [0.0, 9.0], [1.0, 1.0], [2.0, 2.0], [5.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert diversity(features, labels) == pytest.approx(2**0.5 / 2)
    assert diversity(features[:2], labels[:2]) == pytest.approx(2**0.5)
