"""Table of the seconds from the command to the first training step, most of them measured in a child process."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.processes import cores, process_age

Mark = tuple[str, float, float]  # A phase, and its seconds of wall-clock and processor time.
FEW = 6  # Number of packages in the line about imports.
IMPORT = re.compile(r"import time: +(\d+) \| +\d+ \| +(\w+)")


def start_table(words: Sequence[str], folder: Path) -> list[str]:
    """Return the lines of the table. words: arguments of `train_flow`.

    folder: experiments folder of the measured run, which stops after its first step. Wall-clock time depends on other
    work on the machine, so the table also has the machine's load.
    """
    root, load = Path(__file__).resolve().parents[2], os.getloadavg()[0]
    begun = time.perf_counter()
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(["scripts/sh/setup.sh", "--quiet"], cwd=root, env=environment, check=True)
    marks: list[Mark] = [("checking the environment", time.perf_counter() - begun, 0.0)]
    command = [sys.executable, "-X", "importtime", "-m", __name__, *words, "--experiments_dir", str(folder)]
    child = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if child.returncode != 0:
        said = [line for line in child.stderr.splitlines() if line.strip() and not line.startswith("import time:")]
        raise UserError(f"the training ended with exit code {child.returncode}: {said[-1] if said else 'no message'}")
    marks += json.loads(child.stdout.splitlines()[-1])
    imports: Counter[str] = Counter()
    for microseconds, package in IMPORT.findall(child.stderr):
        imports[package] += int(microseconds)
    listed = ", ".join(f"{package} {microseconds / 1e6:.2f}" for package, microseconds in imports.most_common(FEW))
    _, walls, processors = zip(*marks, strict=True)
    totals = ("in all", sum(walls), sum(processors))
    return [
        f"start of train_flow {' '.join(words)}: load {load:.1f} on {cores()} cores",
        f"{'':<28} {'wall s':>8} {'CPU s':>8}",
        *(f"{name:<28} {wall:>8.2f} {processor:>8.2f}" for name, wall, processor in (*marks, totals)),
        f"seconds of imports: {listed}",
    ]


def main(words: list[str]) -> None:
    """Start a training as train_flow does, and print the time of each phase until the first step has ended."""
    marks: list[Mark] = []

    def mark(name: str) -> None:
        wall, processor = process_age(), time.process_time()
        marks.append((name, wall - sum(mark[1] for mark in marks), processor - sum(mark[2] for mark in marks)))

    from scripts.cli.command import quick_imports
    from scripts.cli.flags import FLOW
    from scripts.cli.settings import read_training
    from scripts.tasks.starting import start_early

    mark("Python, command line")
    request = read_training(words, "train_flow", FLOW, "")
    mark("flags")
    with quick_imports():
        start_early(request)
        import torch  # noqa: F401 - to be measured

        mark("torch")
        from models.training.loop import Trainer
        from scripts.tasks import denoising, training

        mark("modules of this repository")

    def marked(owner: Any, function: str, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, function)

        def call(*arguments: Any, **options: Any) -> Any:
            returned = original(*arguments, **options)
            mark(name)
            return returned

        setattr(owner, function, call)

    marked(training, "resolve_flags", "device")
    marked(denoising, "load_data", "data")
    marked(denoising, "assemble", "network, objective, batches")
    marked(training, "_open_run", "run folder")
    marked(training.Prepared, "trainer", "optimizer, EMA, log")
    step = Trainer.train_step

    def first_step(self: Trainer) -> None:
        mark("TensorBoard")
        step(self)
        self.check()  # waits for the device
        mark("first step")
        print(json.dumps(marks), flush=True)
        os._exit(0)

    Trainer.train_step = first_step
    denoising.train_denoiser(request)


if __name__ == "__main__":
    main(sys.argv[1:])
