"""Measure a trained run. EVALUATIONS lists the evaluations with their flags.

Each evaluation is implemented in scripts/tasks/evaluate_<name>.py, which is imported after its flags have been parsed.
"""

if not __package__:
    __import__("cli")  # says what to type, and exits

import importlib
from typing import Any

from models import processes
from models.errors import UserError, suggestion
from scripts.cli.arguments import read_ahead
from scripts.cli.command import quick_imports, run_command
from scripts.cli.evaluation_flags import (
    BayesFlags,
    CheckpointsFlags,
    CompareFlags,
    LikelihoodFlags,
    NoiseLossFlags,
    SamplesFlags,
)
from scripts.cli.settings import read_flags

# Flags and description of each evaluation.
EVALUATIONS: dict[str, tuple[type[Any], str]] = {
    "samples": (SamplesFlags, "Measure generated images against real ones. Prints the output folder."),
    "bayes": (BayesFlags, "Classify images by p(x|y) p(y) of a trained run. Prints the report's path."),
    "likelihood": (LikelihoodFlags, "Bound the bits per dimension of a run on test images. Prints the report's path."),
    "loss": (NoiseLossFlags, "Measure the noise-prediction loss as a function of t. Prints the report's path."),
    "compare": (CompareFlags, "Compare two evaluations of samples. Prints the file of the comparison."),
    "checkpoints": (CheckpointsFlags, "Measure every checkpoint of a run, raw and EMA weights. Prints the folder."),
}
# Evaluations that are chosen by a flag of their own. --task chooses the other evaluations.
MODES = {"__compare": "compare", "__every_checkpoint": "checkpoints"}


def main(argv: list[str]) -> None:
    words = {word.partition("=")[0].replace("-", "_") for word in argv}
    if processes.world_size() > 1 and words & {*MODES, "__samples"}:
        raise UserError("this evaluation runs in one process: leave out GPUS and PROCS")
    mode = next((evaluation for flag, evaluation in MODES.items() if flag in words), None)
    name = mode or read_ahead(argv).get("task") or "samples"
    tasks = [task for task in EVALUATIONS if task not in MODES.values()]
    if mode is None and name not in tasks:
        raise UserError(f"`task` {name}: choose from {', '.join(tasks)}{suggestion(name, tasks)}")
    flags_class, description = EVALUATIONS[name]
    flags = read_flags(argv, flags_class(), "evaluate", description)
    with quick_imports():
        module = importlib.import_module(f"scripts.tasks.evaluate_{name}")
    module.main(flags)


if __name__ == "__main__":
    run_command(main, parallel=True)
