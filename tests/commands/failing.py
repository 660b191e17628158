"""Runs a task in which one of the processes fails at its fifth step: raised or killed, then the task and its flags."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

from models import processes
from models.training.loop import Trainer
from scripts.cli.command import run_command


def main(argv: list[str]) -> None:
    how, task = argv[:2]
    step = Trainer.train_step

    def failing_step(self: Any) -> None:
        if processes.rank() == 1 and self.step == 4:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the fifth step is too much")
        step(self)

    Trainer.train_step = failing_step
    sys.argv = [task, *argv[2:]]
    run_command(importlib.import_module(f"scripts.{task}").main, parallel=True)


if __name__ == "__main__":
    main(sys.argv[1:])
