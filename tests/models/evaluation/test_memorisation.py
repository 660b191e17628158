"""Memorisation: copies of training images are detected, and new images are not, at the expected rates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.evaluation.memorisation import memorisation


def pictures(count: int, seed: int) -> Tensor:
    """Grey images of 6x6 pixels, each with a bright spot at a random position on noise."""
    generator = torch.Generator().manual_seed(seed)
    places = 5 * torch.rand(count, 2, generator=generator)
    grid = torch.arange(6.0)
    reach = [torch.exp(-((grid - places[:, axis, None]) ** 2) / 3) for axis in (0, 1)]
    spots = 200 * reach[0][:, :, None] * reach[1][:, None, :]
    return (spots.flatten(1) + 50 * torch.rand(count, 36, generator=generator)).to(torch.uint8)


def altered(images: Tensor) -> Tensor:
    """The images with each grey level changed by one, up or down."""
    signs = torch.randint(0, 2, images.shape, generator=torch.Generator().manual_seed(9)) * 2 - 1
    return (images.int() + signs).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("alter", [lambda images: images, altered], ids=["exact", "altered"])
def test_training_images_among_samples_are_detected_and_named(alter) -> None:
    train, test, fresh = pictures(300, 0), pictures(300, 1), pictures(100, 2)
    chosen = torch.randperm(300, generator=torch.Generator().manual_seed(3))[:100]
    result = memorisation(torch.cat([alter(train[chosen]), fresh]), train, test)
    assert result.nearest[:100].tolist() == chosen.tolist()
    assert result.near_copy[:100].all() and result.near_copy[100:].double().mean() < 0.05
    assert result.nearer_to_train[:100].min() == 1
    assert result.nearer_to_train.double().mean().item() == pytest.approx(0.75, abs=0.06)
    if alter is altered:
        assert result.distances[:100].max() <= 1
    else:
        assert (result.distances[:100] == 0).all()
    assert result.distances[100:].min() > 1


def test_copies_are_detected_although_test_images_are_copies_too() -> None:
    """If 2 % of the test images are training images, the limit is a distance of 0. Its floor is then 2 %."""
    train, test = pictures(300, 0), pictures(300, 1)
    test[:6] = train[:6]
    result = memorisation(train[:50], train, test)
    assert result.near_copy.all() and result.test_near_copies == pytest.approx(0.02)
    assert not memorisation(pictures(100, 2), train, test).near_copy.any()


def test_new_images_are_as_new_as_test_images() -> None:
    """About 1 % are near copies. As many are nearest to training images as these are among real images."""
    comparisons = [
        memorisation(pictures(400, 3 * seed), pictures(count, 3 * seed + 1), pictures(400, 3 * seed + 2))
        for seed, count in enumerate([400] * 6 + [1500] * 4)
    ]
    copies = torch.cat([comparison.near_copy for comparison in comparisons]).double().mean()
    assert 0.005 < copies < 0.02
    for comparison in comparisons:
        assert comparison.nearer_to_train.double().mean().item() == pytest.approx(comparison.expected, abs=0.1)
        test_distance = comparison.test_distances.mean().item()
        assert comparison.distances.mean().item() == pytest.approx(test_distance, rel=0.05)


def test_distances_are_the_root_mean_square_over_pixels() -> None:
    train = torch.zeros(2, 36, dtype=torch.uint8)
    train[1] = 200
    sample = torch.full((1, 36), 3, dtype=torch.uint8)
    result = memorisation(sample, train, torch.full((2, 36), 7, dtype=torch.uint8))
    assert result.distances.tolist() == [3] and result.nearest.tolist() == [0]
    assert result.test_distances.tolist() == [7, 7]


def test_the_nearest_of_all_real_images_decides() -> None:
    train, test = torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 0.0], [9.0, 0.0]])
    result = memorisation(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), train, test)
    assert result.nearer_to_train.tolist() == [True, False] and result.expected == 1 / 3
