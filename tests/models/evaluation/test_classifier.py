"""Classifiers: accuracy on easy images, reproducibility, the cache, and checks of their files."""

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
    ClassifierSettings,
    cached_path,
    find_or_train,
    fit_classifier,
    load_classifier,
)
from models.evaluation.feature_networks import NETWORKS
from models.evaluation.image_sets import LabelledImages, RealImages
from models.evaluation.recognition import accuracy, confusion_counts, diversity
from models.runs import checkpoints
from models.spaces import Identity

CPU = torch.device("cpu")


def halves(count: int, shape: tuple[int, int, int], seed: int) -> LabelledImages:
    """Noisy images that are bright in the upper half (label 0) or in the lower half (label 1)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    images = torch.randint(0, 120, (count, *shape), generator=generator)
    half = shape[1] // 2
    images[labels == 0, :, :half] += 100
    images[labels == 1, :, half:] += 100
    return LabelledImages(images.to(torch.uint8), labels)


SHAPE = (1, 8, 8)


def make(
    folder: Path, shape: tuple[int, int, int] = (1, 8, 8), sha256: str = "a", settings: ClassifierSettings | None = None
) -> tuple[Classifier, list[str]]:
    """A classifier with the cache `folder`, and the lines that were logged."""
    lines: list[str] = []
    train = replace(halves(256, shape, 0), identity=Identity(sha256))
    real = RealImages("halves", ("upper", "lower"), False, train, halves(100, shape, 1))
    return find_or_train(folder, settings or ClassifierSettings(epochs=1), real, CPU, lines.append), lines


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 36)])
def test_a_trained_classifier_is_accurate_and_cached(network: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    settings = ClassifierSettings(network, epochs=12)
    first, lines = make(tmp_path / "cache", shape, settings=settings)
    assert first.accuracy > 0.95 and lines
    again, no_lines = make(tmp_path / "cache", shape, settings=settings)
    assert not no_lines and again.facts == first.facts and again.name == first.name
    examples = halves(30, shape, 2)
    output = again.extract(examples.images)
    assert output.features.shape == (30, NETWORKS[network].features) and output.logits.shape == (30, 2)
    assert (output.predictions == examples.labels).float().mean() > 0.9
    assert torch.equal(output.features, first.extract(examples.images).features)


def test_the_same_seed_gives_the_same_network() -> None:
    examples = halves(256, (1, 8, 8), 0)
    one, same, other = (
        fit_classifier(ClassifierSettings(epochs=1, seed=seed), examples, 2, CPU).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["verdict.weight"], other["verdict.weight"])


def features_with_threads(classifier: Classifier, images: Tensor, threads: int) -> Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return classifier.extract(images).features
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("network", NETWORKS)
def test_features_are_the_same_in_any_batch_and_with_any_number_of_threads(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, _ = make(tmp_path, (1, 28, 28), settings=ClassifierSettings(network, epochs=0.1))
    images = halves(90, (1, 28, 28), 2).images[:]
    whole = features_with_threads(classifier, images, 1)
    assert (features_with_threads(classifier, images, 3) - whole).abs().max() < 1e-5
    monkeypatch.setattr(module, "BATCH", 7)
    assert (features_with_threads(classifier, images, 1) - whole).abs().max() < 1e-5


def test_a_classifier_is_trained_anew_for_other_data_and_broken_files(tmp_path: Path) -> None:
    make(tmp_path)
    assert make(tmp_path, sha256="b")[1]
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"no weights")
    assert make(tmp_path)[1] and not make(tmp_path)[1]
    assert len(list(tmp_path.glob("[!.]*"))) == 4


def test_a_classifier_of_image_files_is_found_by_their_contents(tmp_path: Path) -> None:
    def found(identity: Identity) -> bool:
        """Return whether no classifier was trained."""
        lines: list[str] = []
        real = RealImages("halves", ("upper", "lower"), False, replace(train, identity=identity), halves(20, SHAPE, 1))
        classifier = find_or_train(tmp_path, ClassifierSettings(epochs=0.2), real, CPU, lines.append)
        assert Identity.from_facts(classifier.facts, "data_").contents == identity.contents
        return not lines

    train = halves(64, SHAPE, 0)
    assert not found(Identity("names and sizes", "contents"))
    assert found(Identity("other names", "contents"))
    assert not found(Identity("names and sizes", "other contents"))
    assert not found(Identity("names and sizes"))


def test_names_of_cached_files_are_fixed() -> None:
    """Classifiers that are cached already must be found."""
    settings = ClassifierSettings("resnet", width=8, epochs=2, flips=True)
    assert cached_path(Path("cache"), settings, "0" * 64) == Path("cache/6dc3fe60b7a01a77.safetensors")


def test_small_sets_are_trained_on_for_more_epochs() -> None:
    assert ClassifierSettings().epochs_for(60_000) == 12
    assert ClassifierSettings().epochs_for(3_200) == 600 * 128 / 3_200
    assert ClassifierSettings().epochs_for(10) == 100
    assert ClassifierSettings(epochs=3).epochs_for(10) == 3


def test_files_that_hold_no_classifier_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "cache")
    path = next((tmp_path / "cache").glob("*.safetensors"))
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


def test_augmented_images_are_shifted_and_mirrored() -> None:
    images = halves(64, (1, 28, 28), 3).images[:]
    generator = torch.Generator().manual_seed(0)
    moved = module._augment(images, False, generator)
    assert moved.shape == images.shape and not torch.equal(moved, images)
    slope = torch.arange(28, dtype=torch.uint8).expand(200, 1, 28, 28)
    mirrored = module._augment(slope, True, generator).float()
    falling = (mirrored[:, 0, 0, -1] < mirrored[:, 0, 0, 0]).float().mean()
    assert 0.3 < falling < 0.7
    rising = module._augment(slope, False, generator).float()
    assert (rising.diff(dim=3) >= 0).all()


def test_diversity() -> None:
    """Orthogonal unit vectors have a distance of sqrt(2). The length of vectors and single vectors have no effect."""
    features = torch.tensor([[1.0, 0.0], [0.0, 9.0], [1.0, 1.0], [2.0, 2.0], [5.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert diversity(features, labels) == pytest.approx(2**0.5 / 2)
    assert diversity(features[:2], labels[:2]) == pytest.approx(2**0.5)


def test_confusion_counts_and_accuracy() -> None:
    assert confusion_counts(torch.zeros(5, dtype=torch.long), torch.zeros(5, dtype=torch.long), 1).tolist() == [[5]]
    labels, predictions = torch.tensor([0, 0, 1, 3, 3, 3]), torch.tensor([0, 2, 1, 3, 0, 3])
    counts = confusion_counts(labels, predictions, 4)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 2]]
    assert accuracy(predictions, labels) == 4 / 6
