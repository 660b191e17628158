"""A small version of every network, and inputs for it."""

from typing import Any

import torch
from torch import Tensor, nn

from models.variants import NETWORKS

SMALL: dict[str, dict[str, Any]] = {
    "unet": {"width": 8, "attention_levels": (0, 1)},
    "dit": {"width": 16, "depth": 2, "heads": 2, "patch_size": 4},
    "convnext": {"width": 8, "blocks": 1},
}
CLASSES = 3


def small(name: str, shape: tuple[int, int, int] = (1, 8, 8), classes: int = CLASSES, **options: Any) -> nn.Module:
    """Return a new small network with seed 0."""
    torch.manual_seed(0)
    return NETWORKS.build(name, shape, classes, **{**SMALL[name], **options})


def awake(name: str, *args: Any, **options: Any) -> nn.Module:
    """Return a small network in eval mode with noise on all weights, so that no part is zero."""
    network = small(name, *args, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def inputs(shape: tuple[int, int, int] = (1, 8, 8), count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return noisy (N, *shape), t (N,) and label (N,)."""
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(count, *shape, generator=generator)
    return noisy, torch.rand(count, generator=generator), torch.arange(count) % CLASSES


def train(network: nn.Module, steps: int, *arguments: Tensor | None, target: Tensor) -> None:
    """Train for some steps towards the target. The gradients of the last step stay."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (network(*arguments) - target).square().mean().backward()
        optimizer.step()
