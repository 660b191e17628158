"""Optimizers: AdamW, and Muon for hidden matrices with AdamW for the other weights."""

# pyright: reportPrivateImportUsage=false

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.learning_rate import OptimizerSettings


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW without the compile hooks, whose import takes seconds."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class Muon(AdamW):
    """Muon for the parameter groups with `matrices` set, AdamW for the others (Jordan 2024).

    The update of a matrix is its orthogonalised momentum: five Newton-Schulz steps bring the singular values near 1.
    The update is scaled to the size of an AdamW update (Liu et al. 2025, eq. 4), so Muon and AdamW share learning rate
    and weight decay. A filter counts as a matrix (out, in * height * width). found_inf and grad_scale act as in AdamW.
    """

    # torch.optim.Muon rejects filters, loops over the matrices one by one, and ignores found_inf and grad_scale. Here
    # all matrices of one shape are one batch, and a gradient that is not finite leaves them unchanged.

    momentum = 0.95
    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None
    coefficients = (3.4445, -4.7750, 2.0315)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.stacks: dict[tuple[Tensor, ...], Tensor] = {}
        super().__init__(*arguments, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stacks.clear()  # the momenta are stacked again at the next step
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        groups = self.param_groups
        for group in groups:
            if group["matrices"]:
                self.step_matrices(group)
        self.param_groups = [group for group in groups if not group["matrices"]]
        try:
            super().step()
        finally:
            self.param_groups = groups

    @torch.no_grad()
    def step_matrices(self, group: dict[str, Any]) -> None:
        """Update the matrices of a group. All matrices of one shape form one batch."""
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for p in group["params"]:
            if p.grad is not None:
                by_shape.setdefault(p.flatten(1).shape, []).append(p)
        for shape, parameters in by_shape.items():
            length = group["lr"] * 0.2 * max(shape) ** 0.5
            decay = group["lr"] * group["weight_decay"]
            if self.found_inf is not None:
                moves = 1 - self.found_inf.to(parameters[0].dtype)
                length, decay = length * moves, decay * moves
            updates = orthogonalise(self._directions(tuple(parameters)), self.coefficients) * -length
            torch._foreach_mul_(parameters, 1 - decay)
            torch._foreach_add_(parameters, [update.view_as(p) for p, update in zip(parameters, updates, strict=True)])

    def _directions(self, parameters: tuple[Tensor, ...]) -> Tensor:
        """Update the momenta, unless found_inf is 1, and return Nesterov's directions as matrices (K, m, n)."""
        gradients = torch.stack([cast(Tensor, p.grad).flatten(1) for p in parameters])
        if self.grad_scale is not None:
            gradients /= self.grad_scale
        momenta = self._momenta(parameters)
        if self.found_inf is not None:
            gradients = torch.where(self.found_inf > 0, momenta, gradients)
        momenta.lerp_(gradients, 1 - self.momentum)
        return gradients.lerp(momenta, self.momentum)

    def _momenta(self, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return the momenta (K, m, n). A parameter's state has a view of its momentum, with the parameter's shape."""
        if parameters not in self.stacks:
            states = [self.state[p] for p in parameters]
            momenta = [state.get("momentum", torch.zeros_like(p)) for p, state in zip(parameters, states, strict=True)]
            self.stacks[parameters] = torch.stack([momentum.flatten(1) for momentum in momenta])
            for p, state, momentum in zip(parameters, states, self.stacks[parameters], strict=True):
                state.setdefault("step", torch.zeros(()))  # AdamW.load_state_dict expects it in every state
                state["momentum"] = momentum.view_as(p)
        return self.stacks[parameters]


def orthogonalise(matrices: Tensor, coefficients: tuple[float, float, float]) -> Tensor:
    """Map each matrix U S V' of a batch (K, m, n) to nearly U V'.

    Singular values become 0.7 to 1.2, unless they are tiny. A Newton-Schulz step X -> (a + b X X' + c (X X')^2) X
    multiplies X by a polynomial in its Gram matrix X X'. The five steps update only the Gram matrix and the product
    of the polynomials. At the end, X is multiplied by that product once.
    """
    a, b, c = coefficients
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    unit = product = torch.eye(wide.shape[1], dtype=wide.dtype, device=wide.device)
    with _without_tf32():
        gram = wide @ wide.mT
        for _ in range(5):
            factor = torch.baddbmm(a * unit + b * gram, gram, gram, alpha=c)
            product, gram = factor @ product, factor @ gram @ factor
        wide = product @ wide
    return wide if matrices.shape[1] <= matrices.shape[2] else wide.mT


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Compute matrix products on GPUs in full float32.

    With TF32's ten mantissa bits, small Gram eigenvalues may become negative. Newton-Schulz steps then amplify them.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def hidden_matrices(network: nn.Module) -> list[Tensor]:
    """Return the weights of linear layers and convolutions with at least 16 inputs and 16 outputs."""
    layers = (module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    return [layer.weight for layer in layers if min(layer.weight.shape[:2]) >= 16]


def set_learning_rate(optimizer: AdamW, rate: float, planned: Tensor) -> None:
    """Set the learning rate of a step. planned: `rate` as a tensor on the device, from the step's plan.

    A CUDA graph reads the tensor. On a CPU, the fused update takes the Python number: a float32 tensor would change
    the last bits of the weights.
    """
    for group in optimizer.param_groups:
        group["lr"] = planned if group["capturable"] else rate


def build_optimizer(network: nn.Module, settings: OptimizerSettings) -> AdamW:
    """Return fused AdamW or Muon; both read found_inf and grad_scale. Weight decay is for matrices and filters only."""
    muon, decay = settings.optimizer == "muon", settings.weight_decay
    options: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas, "fused": True}
    options["capturable"] = next(network.parameters()).is_cuda
    hidden = {id(p) for p in hidden_matrices(network)} if muon else set()
    matrices = [p for p in network.parameters() if id(p) in hidden]
    others = [p for p in network.parameters() if id(p) not in hidden]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
    ]
    if not muon:
        return AdamW(groups, **options)
    groups = [{**group, "matrices": False} for group in groups]
    groups.append({"params": matrices, "weight_decay": decay, "matrices": True})
    return Muon([group for group in groups if group["params"]], **options)
