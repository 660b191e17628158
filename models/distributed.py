"""The processes of one task: which of them this is, and what they tell each other. The only file that names
torch.distributed.

torchrun starts them, on one machine or several, and says so in the environment; a process of its own is the first of
one, and every function here then costs nothing. Gradients travel by NCCL where there are GPUs, all else between the
CPUs, by gloo. As a program it is torchrun with our exit codes, which `launch.sh` and `slurm.sh` call:

    python -m models.distributed [TORCHRUN OPTIONS] -m scripts.TASK [FLAGS]
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from models.errors import UserError
from models.processes import is_first, local_rank, rank, threads_per_process, world_size

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

Item = TypeVar("Item")

Result = TypeVar("Result")

# While the first draws and measures, the others wait.
PATIENCE = timedelta(hours=2)

# How long a process that fails lets another say why it failed first.
COURTESY_SECONDS = 5.0

# What a process that was asked to stop has for its last checkpoint.
SHUTDOWN_SECONDS = "120"

_hosts: dist.ProcessGroup | None = None


def join(device: torch.device) -> None:
    """Meets the other processes; all that follows needs it. device: what this process computes on."""
    global _hosts
    if world_size() == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    _hosts = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))


def leave() -> None:
    global _hosts
    if dist.is_initialized():
        dist.destroy_process_group()
        _hosts = None


def let_others_speak() -> None:
    """Waits before this process says why it fails, unless it is the first: mostly it fails because another did, and
    torchrun then ends it here."""
    if not is_first():
        time.sleep(COURTESY_SECONDS)


def largest(*values: float) -> Sequence[float]:
    """Of each value the largest that any process has."""
    if world_size() == 1:
        return values
    told = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(told, dist.ReduceOp.MAX, group=_hosts)
    return told.tolist()


def meet() -> None:
    """Waits for all processes. Raises RuntimeError where one of them is gone."""
    largest(0)


def total(values: Tensor) -> Tensor:
    """The sum over the processes; `values` stay as they are."""
    if world_size() == 1:
        return values
    summed = values.clone()
    dist.all_reduce(summed)
    return summed


def once(work: Callable[[], Result]) -> Result:
    """What `work` returns in the first process, in all of them. Raises its UserError in all of them, too."""
    if world_size() == 1:
        return work()
    told: list[Any] = [None, None]
    if is_first():
        try:
            told[0] = work()
        except UserError as error:
            told[1] = error.args
    dist.broadcast_object_list(told, 0, group=_hosts)
    if told[1] is not None:
        raise UserError(*told[1])
    return told[0]


def gathered(mine: Item) -> list[Item]:
    """What each process has to say, in their order."""
    if world_size() == 1:
        return [mine]
    told: list[Any] = [None] * world_size()
    dist.all_gather_object(told, mine, group=_hosts)
    return told


@contextmanager
def one_goes_ahead() -> Iterator[None]:
    """The first process of each machine does the block before the others: they find what it downloaded and kept."""
    if local_rank() > 0:
        meet()
    yield
    if local_rank() == 0:
        meet()


def map_over_ranks(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """What `work` makes of each item, in order, in every process; each of them does every size-th item."""
    for start in range(0, len(items), world_size()):
        mine = start + rank()
        result = work(items[mine]) if mine < len(items) else None
        yield from cast(list[Result], gathered(result))[: len(items) - start]


def parallel(network: nn.Module) -> nn.Module:
    """The network, with gradients that are the mean over the processes; its weights become those of the first."""
    if world_size() == 1:
        return network
    # Filters of 1x1 have several layouts that are the same bytes, and it warns of the difference.
    warnings.filterwarnings("ignore", "Grad strides do not match")
    return DistributedDataParallel(network, forward_sync_buffers=False, gradient_as_bucket_view=True)


def without_sync(network: nn.Module) -> AbstractContextManager[None]:
    """Backward passes in the block leave the gradients of a `parallel` network to the next one outside of it."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def launch(argv: Sequence[str]) -> int:
    """torchrun in this process, with `OPTIONS -m MODULE ARGUMENTS`, threads that do not crowd each other, and without
    its own report: what the module said says more.

    Returns the exit code of the process that failed first, or 128 and the signal that ended this one; 0 if all is well.
    """
    import logging

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    at = argv.index("-m") + 2
    parsed = run.parse_args(argv[:at])
    parsed.training_script_args = list(argv[at:])  # Parsed with the others torchrun would take some for its own.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS)
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(threads_per_process(run.determine_local_world_size(parsed.nproc_per_node)))
    )
    for name in ("torch.distributed", *logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):  # some have a level of their own
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        run.run(parsed)
    except ChildFailedError as error:
        failure = first_failure(list(error.failures.values()))
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + error.sigval
    return 0


def first_failure(failures: Sequence[ProcessFailure]) -> ProcessFailure:
    """By stamps of whole seconds. The others of one that was killed notice at once, and may be seen to have failed
    together with it; torchrun then ends by SIGTERM those that remain."""
    began = min(each.timestamp for each in failures)
    together = (each for each in failures if each.timestamp <= began + 1)
    return min(together, key=lambda each: (each.exitcode == -signal.SIGTERM, each.exitcode > 0, each.timestamp))


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
