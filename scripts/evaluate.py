"""Measures a trained run. Each task is a module of its own with its own flags; the table of them closes the file."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import tyro

from models.errors import UserError
from scripts import evaluate_bayes
from scripts.arguments import last_value, parse
from scripts.command import run_command

DESCRIPTION = "Measure a trained run. Prints the report's path."


def main(argv: list[str]) -> None:
    task = last_value(argv, "task")
    if task is None:
        if not {"-h", "--help"} & set(argv):
            raise UserError(f"--task: say what to measure: {', '.join(TASKS)}")
        parse(argv, EvaluateFlags(), "evaluate", DESCRIPTION)
    elif task not in TASKS:
        close = difflib.get_close_matches(task, TASKS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"--task {task}: choose from {', '.join(TASKS)}{hint}")
    else:
        TASKS[task](argv)


TASKS: dict[str, Callable[[list[str]], None]] = {
    "bayes": evaluate_bayes.main,
}


@dataclass(frozen=True)
class EvaluateFlags:
    """Settings of `evaluate`."""

    task: Annotated[str | None, tyro.conf.arg(metavar=f"{{{','.join(TASKS)}}}")] = None
    """What to measure; --task NAME --help lists the flags of a task. bayes: accuracy of the model as a classifier."""


if __name__ == "__main__":
    run_command(main)
