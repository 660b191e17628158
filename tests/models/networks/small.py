"""Small networks of every kind, and inputs for them."""

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
    torch.manual_seed(0)
    return NETWORKS.find(name)(shape, classes, **{**SMALL[name], **options})


def awake(name: str, *args: Any, **options: Any) -> nn.Module:
    """A network whose zero-initialised parts are not zero any more."""
    network = small(name, *args, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def inputs(shape: tuple[int, int, int] = (1, 8, 8), count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """noisy, t and label."""
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(count, *shape, generator=generator)
    return noisy, torch.rand(count, generator=generator), torch.arange(count) % CLASSES


def train(network: nn.Module, steps: int, *given: Tensor | None, target: Tensor) -> None:
    """A few steps towards the target; the gradients of the last stay."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (network(*given) - target).square().mean().backward()
        optimizer.step()
