"""Batches: functions of (seed, step) alone, every image once per epoch, flips only on request."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import Split
from data.batches import Batches
from models.errors import UserError


def numbered(size: int, channels: int = 1) -> Split:
    """Return a split whose image n holds 4n..4n+3 (mod 256) from left to right and has label n."""
    values = (4 * torch.arange(size)[:, None] + torch.arange(4)) % 256
    images = values.to(torch.uint8)[:, None, None, :].expand(size, channels, 2, 4).contiguous()
    return Split(images, torch.arange(size))


def stream(batches: Batches, steps: int) -> torch.Tensor:
    return torch.cat([batches.at(step)[1] for step in range(steps)])


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 40), batch_size=st.integers(1, 100), seed=st.integers(0, 2**40))
def test_every_image_once_per_epoch(size: int, batch_size: int, seed: int) -> None:
    batches = Batches(numbered(size), batch_size, seed)
    steps = -(-3 * size // batch_size)
    labels = stream(batches, steps)
    assert labels.shape == (steps * batch_size,)
    for epoch in range(len(labels) // size):
        assert sorted(labels[epoch * size : (epoch + 1) * size].tolist()) == list(range(size))


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 40),
    batch_size=st.integers(1, 60),
    seed=st.integers(0, 2**32),
    steps=st.lists(st.integers(0, 50), min_size=1, max_size=6),
    flips=st.booleans(),
)
def test_a_batch_depends_on_seed_and_step_alone(
    size: int, batch_size: int, seed: int, steps: list[int], flips: bool
) -> None:
    split = numbered(size)
    travelled = Batches(split, batch_size, seed, flips)
    for step in steps:
        images, labels = travelled.at(step)
        fresh_images, fresh_labels = Batches(split, batch_size, seed, flips).at(step)
        assert torch.equal(images, fresh_images) and torch.equal(labels, fresh_labels)


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 30), batch_size=st.integers(1, 50), seed=st.integers(0, 99), step=st.integers(0, 9))
def test_images_and_labels_belong_together(size: int, batch_size: int, seed: int, step: int) -> None:
    split = numbered(size, channels=3)
    images, labels = Batches(split, batch_size, seed).at(step)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert torch.equal(images, split.images[labels])
    flipped, same_labels = Batches(split, batch_size, seed, flips=True).at(step)
    assert torch.equal(labels, same_labels)
    for image, original in zip(flipped, images, strict=True):
        assert torch.equal(image, original) or torch.equal(image, original.flip(2))


def test_flips_are_half_of_the_images_and_drawn_anew_every_epoch() -> None:
    size = 4000
    split = numbered(size)
    batches = Batches(split, size, seed=1, flips=True)
    epochs = []
    for epoch in range(2):
        images, labels = batches.at(epoch)
        mirrored = (images != split.images[labels]).flatten(1).any(1)
        assert abs(mirrored.float().mean().item() - 0.5) < 0.04  # five standard deviations
        epochs.append(mirrored[labels.argsort()])
    agree = (epochs[0] == epochs[1]).float().mean().item()
    assert abs(agree - 0.5) < 0.04


def test_orders_differ_between_seeds_and_epochs() -> None:
    split = numbered(64)
    orders = {tuple(Batches(split, 64, seed).at(epoch)[1].tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_order_is_pinned() -> None:
    # A changed order would change runs that are resumed.
    assert Batches(numbered(10), 10, seed=0).at(0)[1].tolist() == [1, 5, 6, 7, 2, 9, 4, 3, 0, 8]


def test_global_randomness_is_neither_used_nor_changed() -> None:
    states = torch.get_rng_state(), repr(np.random.get_state())
    Batches(numbered(20), 7, seed=0, flips=True).at(3)
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == repr(np.random.get_state())


def test_the_split_stays_unchanged_and_is_not_copied_on_its_own_device() -> None:
    split = numbered(9)
    original = split.in_memory().clone()
    batches = Batches(split, 9, seed=0, flips=True)
    images, _ = batches.at(0)
    images.zero_()
    assert torch.equal(split.in_memory(), original)
    held = batches._images
    assert isinstance(held, torch.Tensor) and held.data_ptr() == split.in_memory().data_ptr()


def test_bad_arguments() -> None:
    with pytest.raises(UserError, match="empty"):
        Batches(numbered(0), 1, seed=0)
    with pytest.raises(ValueError, match="-1"):
        Batches(numbered(3), 1, seed=0).at(-1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_a_step_within_an_epoch_does_not_wait_for_the_device() -> None:
    split = numbered(64)
    batches = Batches(split, 8, seed=0, flips=True, device="cuda")
    batches.at(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        images, labels = batches.at(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected_images, expected_labels = Batches(split, 8, seed=0, flips=True).at(1)
    assert images.is_cuda and torch.equal(images.cpu(), expected_images)
    assert torch.equal(labels.cpu(), expected_labels)


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 30), batch_size=st.integers(1, 20), processes=st.integers(1, 5), step=st.integers(0, 9))
def test_shares_make_the_batch(size: int, batch_size: int, processes: int, step: int) -> None:
    split = numbered(size)
    whole = Batches(split, batch_size, 7, flips=True).at(step)
    bounds = [batch_size * index // processes for index in range(processes + 1)]
    parts = [
        Batches(split, batch_size, 7, flips=True, share=share).at(step)
        for share in pairwise(bounds)
        if share[0] < share[1]
    ]
    for tensor, shares in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(tensor, torch.cat(shares))
