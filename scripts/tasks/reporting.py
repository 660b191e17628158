"""Facts about the tasks for the pages of `report`: the commands to type next, and the usual settings of a task."""

import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.report.building import Report
from models.report.views import Advice, Command
from models.runs.lookup import CONFIG
from models.training.budget import DEFAULT_EPOCHS
from scripts.cli.arguments import merge, read_ahead, to_config, with_settings
from scripts.cli.flags import ReportFlags
from scripts.cli.next_steps import make_command, next_command
from scripts.cli.recipes import find_recipe
from scripts.cli.settings import DEFAULTS

BUDGETS = ("epochs", "max_steps", "max_minutes")
PURPOSES = {
    "finished": "generate images",
    "interrupted": "resume it",
    "dead": "resume it",
    "running": "watch its log",
    "failed": "read its log",
}


def commands(folder: Path, task: str, state: str, config: Mapping[str, Any]) -> list[Command]:
    """Return the commands for a run, the likeliest first."""
    if task == "study" and state == "unreadable":
        return []
    if task == "study" and state != "finished":
        return [Command("watch its log" if state == "running" else "go on with it", next_command(folder, task, state))]
    if task not in DEFAULTS:
        return []
    first = []
    if state in PURPOSES:
        words = next_command(folder, task, state)
        purpose = "encode its data set" if "encode_dataset" in words else PURPOSES[state]
        first.append(Command(purpose if "--config" not in words else "start it again", words))
    if state == "finished":
        evaluate = ("evaluate", "--run") if task != "train_vae" else ("reconstruct", "--run")
        first.append(Command("measure it", make_command(*evaluate, folder)))
        longer = {name: 2 * config[name] for name in BUDGETS if isinstance(config.get(name), int | float)}
        if longer:
            if isinstance(config.get("patience"), int) and config["patience"] > 0:
                longer["patience"] = 2 * config["patience"]
            budget = " ".join(f"--{name} {value}" for name, value in longer.items())
            first.append(Command("train it twice as long", make_command(task, "--resume", folder, budget)))
    elif state == "failed" and (folder / "checkpoints" / "last").is_file():
        first.append(Command("resume it from its last checkpoint", make_command(task, "--resume", folder)))
    elif state == "running":
        first.append(Command("stop it after a checkpoint", "make stop"))
    if (folder / CONFIG).is_file() and "--config" not in " ".join(command.words for command in first):
        first.append(Command("repeat it with these settings", make_command(task, "--config", folder / CONFIG)))
    return first


def usual(task: str, config: Mapping[str, Any], command: str) -> tuple[str, Mapping[str, Any]]:
    """Return name and settings of the recipe in a command, or of the task's defaults if the command has no recipe.

    Return an empty name and no settings if the task, recipe, network or data set is not known.
    """
    if task not in DEFAULTS:
        return "", {}
    variants = tuple((word, str(config[word])) for word in DEFAULTS[task][0].variants if word in config)
    try:
        recipe = read_ahead(shlex.split(command)).get("recipe", "")
    except ValueError:  # A quote is missing.
        recipe = ""
    try:
        return _usual(task, recipe, variants, str(config.get("device")).startswith("cuda"))
    except UserError:  # A recipe, a network or a data set that does not exist any more.
        return "", {}


@cache
def _usual(task: str, recipe: str, variants: Sequence[tuple[str, str]], on_gpu: bool) -> tuple[str, Mapping[str, Any]]:
    default, options = DEFAULTS[task]
    found = find_recipe(recipe, task) if recipe else None
    layers = [("", options), *([(recipe, found.settings), (recipe, found.gpu if on_gpu else {})] if found else [])]
    settings, _ = merge(default, *layers, ("", dict(variants)))
    flags, _ = with_settings(default, settings)
    config = to_config(flags)
    if not any(config[name] for name in BUDGETS):
        config["epochs"] = DEFAULT_EPOCHS
    where = " on a GPU" if found and found.gpu and on_gpu else ""
    return f"recipe {recipe}{where}" if recipe else f"the defaults of {task}", config


def open_report(flags: ReportFlags, live: bool = False) -> Report:
    """Return the report that the flags name. Raises UserError if its folder cannot be used. live: as in `Report`."""
    folder = Path(flags.experiments_dir)
    out = Path(flags.out) if flags.out else folder / "report"
    return Report(folder, out, Advice(commands, usual), live)
