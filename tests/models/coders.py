"""Small autoencoders on disk, with random weights, for tests of code that uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.autoencoders.autoencoder import Autoencoder, AutoencoderSpec, load_autoencoder
from models.runs import checkpoints


def random_images(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Return uint8 images (count, *shape), each around a random grey."""
    generator = torch.Generator().manual_seed(seed)
    grey = torch.randint(40, 215, (count, 1, 1, 1), generator=generator)
    return (grey + torch.randint(-40, 41, (count, *shape), generator=generator)).to(torch.uint8)


def small_coder(
    folder: Path, shape: tuple[int, int, int], kind: str = "vae", seed: int = 0, **options: Any
) -> Autoencoder:
    """Write an autoencoder's run into `folder`, with a checkpoint and nothing else, and load it."""
    spec = AutoencoderSpec(kind, "conv", {"width": 8, **options}, shape, ("a", "b", "c"), "l2")
    generator = torch.Generator().manual_seed(seed)
    network = spec.build_network()
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    tensors = checkpoints.prefixed("ema", network.state_dict())
    (folder / "checkpoints").mkdir(parents=True)
    return load_autoencoder(
        checkpoints.save_checkpoint(folder / "checkpoints", 1, tensors, {"autoencoder": spec.facts()}, 0)
    )
