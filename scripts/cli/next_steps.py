"""The command to type next for a run. Imports no torch."""

import shlex
from pathlib import Path

from models.runs.lookup import CONFIG
from models.runs.status import read_status

AFTER_TRAINING = {"train_vae": "encode_dataset"}  # After the other tasks, the next command is generate.


def next_command(folder: Path, task: str, state: str) -> str:
    """Return the command to type next for a run in a state: sample, encode, resume, start again, or read the log."""
    if task == "study" and state != "running":
        return "make report" if state == "finished" else str(read_status(folder).get("command"))
    if state == "finished":
        return make_command(AFTER_TRAINING.get(task, "generate"), "--run", folder)
    if state in ("interrupted", "dead"):
        resumable = (folder / "checkpoints" / "last").is_file()
        return make_command(task, "--resume", folder) if resumable else make_command(task, "--config", folder / CONFIG)
    log = shlex.quote(str(folder / "training_log.txt"))
    return f"tail -f {log}" if state == "running" else f"tail -n 30 {log}"


def make_command(target: str, flag: str, path: Path, more: str = "") -> str:
    """Return a make command with a flag that names a path. more: further arguments, already quoted."""
    words = f"{flag} {shlex.quote(str(path))} {more}".rstrip()
    return f"make {target} ARGS=" + (shlex.quote(words) if set(words) & set('"$`\\!') else f'"{words}"')
