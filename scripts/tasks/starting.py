"""The start of a training: slow preparations begin in threads, before the main thread imports torch."""

import functools
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread

import data
from models import processes
from models.errors import UserError
from models.variants import DATA_SETS
from scripts.cli.flags import AutoencoderFlags, TrainFlags
from scripts.cli.settings import Request

GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # device files of CUDA, ROCm and WSL


def start_early(request: Request[TrainFlags] | Request[AutoencoderFlags]) -> None:
    """Begin to read the data set, to start CUDA and to list matplotlib's fonts. Errors are reported later."""
    if processes.world_size() > 1:  # The processes of a machine load one after another.
        return
    flags = request.flags
    with suppress(UserError):
        data_set = DATA_SETS.build(flags.dataset, **vars(flags.dataset_options))
        data_set.begin(data.data_root(flags.data.data_root))
    device = flags.run.device
    if device.startswith("cuda") or (device == "auto" and any(map(os.path.exists, GPU_DRIVERS))):
        Thread(target=_start_cuda, args=("cuda" if device == "auto" else device,)).start()
    _list_fonts()


def _start_cuda(device: str) -> None:
    import torch

    with suppress(RuntimeError, AssertionError):
        if torch.cuda.is_available():
            torch.zeros(1, device=device)


@functools.cache  # once in a process
def _list_fonts() -> None:
    """Build matplotlib's font cache in a separate process if there is none, so the first picture need not wait."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = Path(os.environ.get("MPLCONFIGDIR") or Path(home) / "matplotlib")
    if sys.platform == "linux" and not list(cache.glob("fontlist-*.json")):
        command = [sys.executable, "-c", "import matplotlib.font_manager"]
        quiet = subprocess.DEVNULL
        Thread(target=lambda: subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet), daemon=True).start()
