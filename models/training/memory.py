"""GPU memory errors. With one process, a batch that is too large is refused before the run folder is created."""

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from models.devices import describe_device
from models.errors import UserError
from models.learning_rate import OptimizerSettings
from models.training.objectives import Objective
from models.training.stepper import BatchSource, Stepper


def check_memory(
    objective: Objective,
    network: nn.Module,
    batches: BatchSource,
    settings: OptimizerSettings,
    device: torch.device,
    divisible: bool,
) -> None:
    """Take a step with a copy of the network. Raises UserError if there is too little memory.

    The message gives a batch size that fits, found by halving. divisible: whether `accumulate` may split a batch.
    """
    parts = settings.accumulate
    while not _fits(objective, network, batches, replace(settings, accumulate=parts), device):
        if parts == settings.batch_size:
            message = f"the network does not fit in the memory of {describe_device(device)}, even with one image"
            raise UserError(message, "use a smaller `network`")
        parts = min(2 * parts, settings.batch_size)
    if parts > settings.accumulate:
        fitting = settings.batch_size * settings.accumulate // parts
        raise UserError(
            f"`batch_size` {settings.batch_size}: does not fit in the memory of {describe_device(device)}",
            *([f"keep this batch size with `accumulate` {parts}"] if divisible else []),
            f"use `batch_size` {fitting}",
        )


def _fits(
    objective: Objective, network: nn.Module, batches: BatchSource, settings: OptimizerSettings, device: torch.device
) -> bool:
    try:
        return _takes_a_step(objective, network, batches, settings, device)
    finally:
        gc.collect()  # A stepper is part of a reference cycle.
        torch.cuda.empty_cache()


def _takes_a_step(
    objective: Objective, network: nn.Module, batches: BatchSource, settings: OptimizerSettings, device: torch.device
) -> bool:
    sums = torch.zeros(2, 1 + len(objective.parts), device=device)
    try:
        trial = copy.deepcopy(network).train()
        stepper = Stepper(objective, trial, batches, settings, 0, False, sums, "a trial", lambda line: None)
        stepper.take(0, 0.0)
        float(stepper.found_inf)  # waits for the device
    except torch.OutOfMemoryError:
        return False
    return True


@contextmanager
def explain_full_memory(settings: OptimizerSettings, device: torch.device, divisible: bool) -> Iterator[None]:
    """Raise UserError instead of torch.OutOfMemoryError if the block runs out of GPU memory.

    divisible: as for `check_memory`.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        parts = min(2 * settings.accumulate, settings.batch_size)
        raise UserError(
            f"`batch_size` {settings.batch_size}: the memory of {describe_device(device)} is full",
            *([f"keep this batch size with `accumulate` {parts}"] if divisible and parts > settings.accumulate else []),
            "use a smaller `batch_size`",
        ) from error
