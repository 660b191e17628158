"""The optimizers: AdamW, and Muon for hidden matrices with AdamW for the other weights."""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.learning_rate import OptimizerSettings


class AdamW(torch.optim.AdamW):
    """torch's, without its import of the compiler, seconds long, for what the compiler is to leave alone: nothing here
    is compiled."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class Muon(AdamW):
    """Muon for the groups that say `matrices`, AdamW for the others (Jordan 2024).

    A matrix moves along the momentum of its gradient with all singular values brought near 1, by five Newton-Schulz
    steps, and scaled so that its elements move as far as AdamW's (Liu et al. 2025, eq. 4): one learning rate and weight
    decay serve both. Filters are matrices (out, in * height * width). As AdamW's fused update it heeds found_inf and
    grad_scale.
    """

    momentum = 0.95
    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None
    coefficients = (3.4445, -4.7750, 2.0315)

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        lost = self.found_inf
        if lost is not None and lost.device.type == "cpu":  # it answers at once, and three passes are saved
            if lost > 0:
                return
            lost = None
        for group in self.param_groups:
            if group["matrices"]:
                self.step_matrices(group, lost)
        super().step()

    @torch.no_grad()
    def step_matrices(self, group: dict[str, Any], lost: Tensor | None = None) -> None:
        """lost: a scalar, 1 where a gradient was not finite and nothing is to move, which no device is asked for."""
        kept = 1.0 if lost is None else 1.0 - lost
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for p in group["params"]:
            if p.grad is not None:
                by_shape.setdefault(p.flatten(1).shape, []).append(p)
        for shape, alike in by_shape.items():
            updates = orthogonalise(self._directions(alike, lost), self.coefficients)
            updates = updates if lost is None else updates * kept
            updates = [update.view_as(p) for p, update in zip(alike, updates, strict=True)]
            torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"] * kept)
            torch._foreach_add_(alike, updates, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)
            for p in alike:
                p.grad = None  # AdamW passes it over

    def _directions(self, alike: Sequence[Tensor], lost: Tensor | None) -> Tensor:
        """(K, m, n): the gradients ahead of their momentum (Nesterov), as matrices. Where they are lost the momentum
        stands in for them, and stays as it is."""
        gradients = [cast(Tensor, p.grad) for p in alike]
        if self.grad_scale is not None:
            torch._foreach_div_(gradients, self.grad_scale)
        for p in alike:
            if not self.state[p]:  # AdamW's own loading expects a step of every state
                self.state[p] = {"step": torch.zeros(()), "momentum": torch.zeros_like(p)}
        momenta = [self.state[p]["momentum"] for p in alike]
        if lost is not None:
            gone = lost > 0
            gradients = [torch.where(gone, mine, new) for mine, new in zip(momenta, gradients, strict=True)]
        torch._foreach_lerp_(momenta, gradients, 1 - self.momentum)
        ahead = torch._foreach_lerp(gradients, momenta, self.momentum)
        return torch.stack([each.flatten(1) for each in ahead])


def orthogonalise(matrices: Tensor, coefficients: tuple[float, float, float]) -> Tensor:
    """(K, m, n), each U S V' -> nearly U V': singular values within about 0.7 and 1.2, but for the smallest.

    Each step X -> (a + b X X' + c (X X')^2) X of Newton-Schulz multiplies by a polynomial in the Gram matrix of the
    first X, so that all of them are taken on the smaller square and multiplied onto X at the end.
    """
    a, b, c = coefficients
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    unit = product = torch.eye(wide.shape[1], dtype=wide.dtype, device=wide.device)
    with _without_tf32():
        gram = wide @ wide.mT
        for _ in range(5):
            factor = a * unit + b * gram + c * gram @ gram
            product, gram = factor @ product, factor @ gram @ factor
        wide = product @ wide
    return wide if matrices.shape[1] <= matrices.shape[2] else wide.mT


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Whole float32 products on GPUs: rounded to TF32's ten bits a Gram matrix has negative eigenvalues where it has
    small ones, and Newton-Schulz multiplies these by ten and more at every step."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def hidden_matrices(network: nn.Module) -> list[Tensor]:
    """Weights of the linear layers and convolutions with at least 16 channels on both sides."""
    layers = (each for each in network.modules() if isinstance(each, nn.Linear | nn.Conv2d))
    return [each.weight for each in layers if min(each.weight.shape[:2]) >= 16]


def build_optimizer(network: nn.Module, settings: OptimizerSettings) -> AdamW:
    """Return a fused AdamW, or Muon. Only matrices and filters have weight decay.

    The training loop relies on the fused update, which reads found_inf and grad_scale.
    """
    muon, decay = settings.optimizer == "muon", settings.weight_decay
    hidden = {id(p) for p in hidden_matrices(network)} if muon else set()
    matrices = [p for p in network.parameters() if id(p) in hidden]
    others = [p for p in network.parameters() if id(p) not in hidden]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
    ]
    if not muon:
        return AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    groups = [{**group, "matrices": False} for group in groups]
    groups.append({"params": matrices, "weight_decay": decay, "matrices": True})
    return Muon([group for group in groups if group["params"]], lr=settings.lr, betas=settings.betas, fused=True)
