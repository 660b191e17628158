"""Measures a trained run. Each task is a module of its own with its own flags; the table of them closes the file."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from models import processes
from models.errors import UserError
from scripts.cli.arguments import read_ahead
from scripts.cli.command import run_command
from scripts.tasks import (
    evaluate_bayes,
    evaluate_checkpoints,
    evaluate_compare,
    evaluate_likelihood,
    evaluate_loss,
    evaluate_samples,
)


def main(argv: list[str]) -> None:
    flags = {word.partition("=")[0].replace("-", "_") for word in argv}
    if processes.world_size() > 1 and flags & {"__compare", "__every_checkpoint", "__samples"}:
        raise UserError("this evaluation generates nothing that could be shared out: leave out GPUS and PROCS")
    if "__compare" in flags:
        evaluate_compare.main(argv)
        return
    if "__every_checkpoint" in flags:
        evaluate_checkpoints.main(argv)
        return
    task = read_ahead(argv).get("task") or DEFAULT
    if task not in TASKS:
        close = difflib.get_close_matches(task, TASKS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"--task {task}: choose from {', '.join(TASKS)}{hint}")
    TASKS[task](argv)


TASKS: dict[str, Callable[[list[str]], None]] = {
    "samples": evaluate_samples.main,
    "bayes": evaluate_bayes.main,
    "likelihood": evaluate_likelihood.main,
    "loss": evaluate_loss.main,
}
DEFAULT = "samples"


if __name__ == "__main__":
    run_command(main, parallel=True)
