"""A training step, split into a plan and a computation.

The host makes the plan from (seed, step) and the progress of the run. The plan holds rows, times, weights, dropped
labels and the learning rate. The host also seeds the generators. The computation takes the plan and the state on the
device, and exchanges no other value with the host. So the host need not wait for the device, and a CUDA graph can
replay the computation. The computation is the same on CPUs and GPUs, in one process and in several.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from models import distributed, processes
from models.learning_rate import OptimizerSettings
from models.optim import build_optimizer, set_learning_rate
from models.randomness import StepRandomness
from models.recording import Recorder
from models.training.ema import EMA
from models.training.objectives import Objective
from models.training.plan import PlanBuffer


class BatchSource(Protocol):
    """Batches of prepared images. plan: choice of a step's images, (N, ...) on the CPU. gather: images and labels."""

    def plan(self, step: int) -> dict[str, Tensor]: ...
    def gather(self, plan: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]: ...
    def __len__(self) -> int: ...


class Stepper:
    """Network, optimizer and EMA, and the step that changes them.

    sums: (2, 1 + K), sums and counts of the loss and of its parts; each step adds to them. obstacle: why steps cannot
    be recorded, None if they can be. tell: function that writes a line to the log.
    """

    def __init__(
        self,
        objective: Objective,
        network: nn.Module,
        batches: BatchSource,
        settings: OptimizerSettings,
        seed: int,
        compiled: bool,
        sums: Tensor,
        obstacle: str | None,
        tell: Callable[[str], None],
    ) -> None:
        self.objective, self.network, self.batches, self.settings = objective, network, batches, settings
        self.sums, device = sums, sums.device
        self.ema = EMA(network, settings.ema)
        self.optimizer = build_optimizer(network, settings)
        self.parameters = list(network.parameters())
        self.ddp = distributed.wrap_ddp(network)
        self.loss = objective.loss_of(cast(nn.Module, torch.compile(self.ddp)) if compiled else self.ddp)
        # Tensors on the device. found_inf: 1 after any non-finite gradient. norm: norm of the last gradient.
        self.found_inf, self.norm = (torch.zeros((), dtype=torch.float32, device=device) for _ in range(2))
        first, end = self.share = processes.rank_share(settings.batch_size)
        cuts = [first + round(part * (end - first) / settings.accumulate) for part in range(settings.accumulate + 1)]
        self.parts = list(pairwise(cuts))
        self.whole = self.parts == [(0, settings.batch_size)]
        self.randomness = StepRandomness(seed, 0, settings.batch_size, *self.parts[0], device)
        self.buffer, self.ema_buffer = PlanBuffer(device), PlanBuffer(device)
        self.plan: dict[str, Tensor] = {}
        self.ema_plan: dict[str, Tensor] = {}
        computations = (self._compute, self._update) if settings.accumulate > 1 else (self._compute_and_update,)
        self.recorders = [Recorder(work, self.randomness.generators, obstacle, tell) for work in computations]
        self.averaging = Recorder(lambda: self.ema.update(network, self.ema_plan["weight"]), {}, obstacle, tell)

    def take(self, step: int, progress: float) -> None:
        """Take an optimizer step on the global batch. This process computes its share, in `accumulate` parts."""
        for plan, last in self._plans(step, progress):
            self.plan = self.buffer.send(plan)
            self.randomness.rows = self.plan.get("rows_of_batch")
            set_learning_rate(self.optimizer, plan["rate"].item(), self.plan["rate"])
            with nullcontext() if last else distributed.without_sync(self.ddp):
                self.recorders[0]()
        for update in self.recorders[1:]:
            update()

    def _plans(self, step: int, progress: float) -> Iterator[tuple[dict[str, Tensor], bool]]:
        """Yield the plan of each part of the step, and whether it is the last."""
        batch, (first, end) = self.batches.plan(step), self.share
        rate = torch.tensor(self.settings.learning_rate(step, progress), dtype=torch.float64)
        for start, stop in self.parts:
            self.randomness.move_to(step, start, stop)
            plan = {name: values[start - first : stop - first] for name, values in batch.items()}
            plan |= {**self.objective.plan(self.randomness), "rate": rate}
            if not self.whole:
                plan["rows_of_batch"] = torch.arange(start, stop)
            yield plan, stop == end

    def _compute(self) -> None:
        """Accumulate gradients and losses of one part of the batch."""
        images, labels = self.batches.gather(self.plan)
        losses = self.loss(images, labels, self.plan, self.randomness)
        total = losses.of_images.sum()
        (total * (processes.world_size() / self.settings.batch_size)).backward()
        self.sums[0, 0] += total.detach()
        self.sums[1, 0] += len(images)
        self.sums[:, 1:] += losses.parts

    def _update(self) -> None:
        """Change the weights. After a non-finite gradient, the weights no longer change."""
        self.norm.copy_(nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None]))
        torch.maximum(self.found_inf, (~self.norm.isfinite()).float(), out=self.found_inf)
        # The fused update skips the step if found_inf is 1, and divides gradients by grad_scale. So clipping needs no
        # separate pass.
        optimizer, clip = cast(Any, self.optimizer), self.settings.clip  # its type declares neither attribute
        optimizer.found_inf = self.found_inf
        optimizer.grad_scale = (self.norm / clip).clamp(min=1).float() if clip > 0 else None
        optimizer.step()
        # With several parts, recorded graphs add to the gradients, whose addresses must not change.
        self.optimizer.zero_grad(set_to_none=self.settings.accumulate == 1)

    def _compute_and_update(self) -> None:
        self._compute()
        self._update()

    def average(self, elapsed: float) -> None:
        """Update the EMA. elapsed: share of the run since the last update."""
        self.ema_plan = self.ema_buffer.send(self.ema.plan(elapsed))
        self.averaging()
