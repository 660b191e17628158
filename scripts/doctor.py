"""Check this machine: Python, packages, torch and its GPU, sessions, disk, data, write access and fonts.

Each finding is one line. If something is wrong, a second line says what to type.
"""

if not __package__:
    __import__("cli")  # says what to type, and exits

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

from models.places import experiments_dir
from scripts.cli.arguments import parse_flags
from scripts.cli.command import run_command

DESCRIPTION = "Check this machine. Exits with 1 if something that every task needs is missing."
LEAST_SPACE = 5  # GiB. A run of MNIST takes 50 MB; a data set with its features, 1 GB.
# Paths of the downloaded data sets in --data_root. A data set is present if one of its paths exists.
PLACES = {
    "mnist": ("MNIST/raw",),
    "fashion_mnist": ("FashionMNIST/raw",),
    "emnist": ("EMNIST/raw",),
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
}


@dataclass(frozen=True)
class DoctorFlags:
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder of the run folders. The variable EXPERIMENTS_DIR sets its default."""
    data_root: str | None = None
    """Folder of the data sets. Default: the variable DATA_ROOT, else data/store."""


class Finding(NamedTuple):
    """Result of a check. state: "ok", "note", or "missing" for what every task needs. way_out: what to type."""

    state: str
    subject: str
    text: str
    way_out: str = ""


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, DoctorFlags(), "doctor", DESCRIPTION)
    missing = False
    for check in CHECKS:
        for finding in check(flags):
            print(f"{finding.state:<8} {finding.subject:<9} {finding.text}", flush=True)
            if finding.way_out:
                print(f"{'':<18} -> {finding.way_out}", flush=True)
            missing |= finding.state == "missing"
    if missing:
        sys.exit(1)


def check_python(flags: DoctorFlags) -> Iterator[Finding]:
    yield Finding("ok", "python", f"{platform.python_version()}, {sys.executable}")  # see scripts/__init__.py


def check_packages(flags: DoctorFlags) -> Iterator[Finding]:
    lines = Path(__file__).resolve().parents[1].joinpath("requirements.txt").read_text(encoding="utf-8").splitlines()
    bounds = [line.split(">=") for line in lines if ">=" in line and not line.startswith("#")]
    lacking = [text for name, bound in bounds if (text := _lacking(name, bound))]
    if lacking:
        yield Finding("missing", "packages", ", ".join(lacking), "make setup")
    else:
        yield Finding("ok", "packages", f"all {len(bounds)} of requirements.txt")


def _lacking(name: str, bound: str) -> str:
    """Return what is wrong with a package, or an empty string."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return name
    return "" if _numbers(version) >= _numbers(bound) else f"{name} {version}, older than {bound}"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.split("+")[0])]


def check_torch(flags: DoctorFlags) -> Iterator[Finding]:
    """Compare the build of torch with the driver of the GPU, and name the devices."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("missing", "torch", str(error).splitlines()[0], "make setup")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    driver = _driver()
    if torch.cuda.is_available():
        yield Finding("ok", "torch", f"{torch.__version__}, built for {build}; driver {driver or 'unknown'}")
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
            yield Finding("ok", "gpu", f"{index}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB, {bf16}")
        return
    build = f"{torch.__version__}, built for {build}"
    if not driver:
        yield Finding("ok", "torch", f"{build}; no GPU")
    elif os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        yield Finding("ok", "torch", f"{build}; the GPUs are hidden")
    else:
        way_out = "delete .venv, and type TORCH_BACKEND=auto make setup"
        yield Finding("note", "torch", f"{build}; it cannot use the GPU with driver {driver}", way_out)
    yield Finding("ok", "cpu", f"{torch.get_num_threads()} threads of torch, {os.cpu_count()} logical cores")


def _driver() -> str:
    """Return the version of the NVIDIA driver, or an empty string."""
    if shutil.which("nvidia-smi") is None:
        return ""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    return done.stdout.split("\n")[0].strip() if done.returncode == 0 else ""


def check_sessions(flags: DoctorFlags) -> Iterator[Finding]:
    for tool in ("screen", "tmux"):
        if shutil.which(tool):
            yield Finding("ok", "sessions", f"run in {tool}")
            return
    yield Finding("note", "sessions", "no screen or tmux: sessions use nohup", "sudo apt-get install screen")


def check_disk(flags: DoctorFlags) -> Iterator[Finding]:
    """Check free space and write access of the folder of runs."""
    folder = Path(flags.experiments_dir).absolute()
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    try:
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        way_out = "set EXPERIMENTS_DIR to a folder of yours"
        yield Finding("missing", "runs", f"{folder}: cannot be written ({error.strerror})", way_out)
        return
    free = shutil.disk_usage(place).free / 2**30
    text = f"{folder}: {free:.0f} GiB free"
    way_out = "" if free >= LEAST_SPACE else "delete old runs, or set EXPERIMENTS_DIR to a folder on another disk"
    yield Finding("ok" if free >= LEAST_SPACE else "note", "runs", text, way_out)


def check_data(flags: DoctorFlags) -> Iterator[Finding]:
    """Name the data sets that are present. The others are downloaded when they are first used."""
    from data import data_root

    root = data_root(flags.data_root)
    present = [name for name, places in PLACES.items() if any((root / place).exists() for place in places)]
    others = [name for name in PLACES if name not in present]
    yield Finding("ok", "data", f"digits is built in; in {root}: {', '.join(present) or 'none'}")
    if others:
        way_out = "offline: copy them to the folder above, in torchvision's layout, or set DATA_ROOT"
        yield Finding("note", "data", f"downloaded when first used: {', '.join(others)}", way_out)


def check_fonts(flags: DoctorFlags) -> Iterator[Finding]:
    from models.drawing.lettering import font

    name = font(12).getname()[0]
    known = name == "DejaVu Sans"
    text = f"{name}, for titles and class names"
    way_out = "" if known else "make setup installs matplotlib, which has a font with accents, Greek and Cyrillic"
    yield Finding("ok" if known else "note", "font", text, way_out)


Check = Callable[[DoctorFlags], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    check_python,
    check_packages,
    check_sessions,
    check_disk,
    check_fonts,
    check_data,
    check_torch,
)


if __name__ == "__main__":
    run_command(main)
