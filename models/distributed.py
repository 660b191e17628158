"""Communication between the ranks of one task: the only module that imports torch.distributed.

With one process, no function communicates. NCCL reduces tensors on GPUs; gloo does everything else.

As a program, this module is torchrun with the exit codes of this repository. `launch.sh` and `slurm.sh` call it:

    python -m models.distributed [TORCHRUN OPTIONS] -m scripts.TASK [FLAGS]
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
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
from models.processes import is_rank_zero, local_rank, rank, threads_per_rank, world_size

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

Item = TypeVar("Item")
Result = TypeVar("Result")

# Longest time that a rank waits for the others, e.g. while rank 0 evaluates the model and saves pictures.
TIMEOUT = timedelta(hours=2)

# Seconds that torchrun waits, after a signal, for a rank to save its last checkpoint. Then torchrun kills the rank.
SHUTDOWN_SECONDS = "120"

_cpu_group: dist.ProcessGroup | None = None


def init_process_group(device: torch.device) -> None:
    """Join the process group of the task. device: the device that this rank computes on."""
    global _cpu_group
    if world_size() == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=TIMEOUT, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    _cpu_group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=TIMEOUT))


def destroy_process_group() -> None:
    """Leave the process group of the task, if there is one."""
    global _cpu_group
    if dist.is_initialized():
        dist.destroy_process_group()
        _cpu_group = None


def max_over_ranks(*values: float) -> Sequence[float]:
    """Return the maximum of each value over all ranks (all-reduce)."""
    if world_size() == 1:
        return values
    maxima = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(maxima, dist.ReduceOp.MAX, group=_cpu_group)
    return maxima.tolist()


def barrier() -> None:
    """Wait for all ranks. Raises RuntimeError if a rank has ended."""
    max_over_ranks(0)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum over all ranks (all-reduce). `values` is not changed."""
    if world_size() == 1:
        return values
    sums = values.clone()
    dist.all_reduce(sums)
    return sums


def run_on_rank_zero(work: Callable[[], Result]) -> Result:
    """Call `work` on rank 0 and broadcast its result to all ranks. A UserError from `work` is raised on all ranks."""
    if world_size() == 1:
        return work()
    result_and_error: list[Any] = [None, None]
    if is_rank_zero():
        try:
            result_and_error[0] = work()
        except UserError as error:
            result_and_error[1] = error.args
    dist.broadcast_object_list(result_and_error, 0, group=_cpu_group)
    result, error_args = result_and_error
    if error_args is not None:
        raise UserError(*error_args)
    return result


def gather_objects(item: Item) -> list[Item]:
    """Return the items of all ranks, in the order of the ranks (all-gather)."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item, group=_cpu_group)
    return items


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Run the block on local rank 0 before the other ranks of the machine, for example to download a file once."""
    if local_rank() > 0:
        barrier()
    yield
    if local_rank() == 0:
        barrier()


def map_over_ranks(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield `work(item)` for every item, in order, on every rank. Rank r computes the items r, r + world size, ..."""
    for start in range(0, len(items), world_size()):
        index = start + rank()
        result = work(items[index]) if index < len(items) else None
        yield from cast(list[Result], gather_objects(result))[: len(items) - start]


def wrap_ddp(network: nn.Module) -> nn.Module:
    """Wrap a network in DistributedDataParallel, unless there is one process. All ranks get the weights of rank 0."""
    if world_size() == 1:
        return network
    # A 1x1 filter and its gradient may have different strides for the same memory layout. DDP warns about this.
    warnings.filterwarnings("ignore", "Grad strides do not match")
    return DistributedDataParallel(network, forward_sync_buffers=False, gradient_as_bucket_view=True)


def without_sync(network: nn.Module) -> AbstractContextManager[None]:
    """Return a context where backward passes only accumulate gradients. The first pass outside it reduces them."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def launch(argv: Sequence[str]) -> int:
    """Run torchrun in this process, without torchrun's error report. argv: `OPTIONS -m MODULE ARGUMENTS`.

    Returns 0 on success, else the exit code of the rank that failed first, or 128 + n if signal n ended that rank or
    this process.
    """
    import logging

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.setdefault("TASK_COMMAND", shlex.join(sys.orig_argv))  # for environment.txt
    script_start = argv.index("-m") + 2
    parsed = run.parse_args(argv[:script_start])
    # torchrun's parser would read some flags of the script as torchrun's flags.
    parsed.training_script_args = list(argv[script_start:])
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS)
    local_world_size = run.determine_local_world_size(parsed.nproc_per_node)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_rank(local_world_size)))
    for name in ("torch.distributed", *logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):  # some of these loggers set their own level
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
    """Return the failure that caused the others.

    Timestamps are whole seconds, so failures within a second count as simultaneous. After the first failure, torchrun
    ends the other ranks with SIGTERM. Simultaneous failures are therefore sorted: first signals except SIGTERM, then
    exit codes, then SIGTERM.
    """
    first = min(failure.timestamp for failure in failures)
    simultaneous = (failure for failure in failures if failure.timestamp <= first + 1)
    return min(simultaneous, key=lambda f: (f.exitcode == -signal.SIGTERM, f.exitcode > 0, f.timestamp))


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
