"""Description of the machine and the code version that a run started with."""

import os
import platform
import shlex
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from models.processes import cpu_name
from models.runs.status import utc_now

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = "environment.txt"
VARIABLES = ("CUDA_VISIBLE_DEVICES", "DATA_ROOT", "EXPERIMENTS_DIR")  # Environment variables that affect commands.


def environment() -> str:
    """Return versions, machine, git commit and command line, with one `key: value` per line."""
    packages = ("torch", "torchvision", "numpy", "safetensors", "tyro")
    lines = [
        f"started: {utc_now()}",
        f"command: {command()}",
        f"folder: {os.getcwd()}",
        f"commit: {git_commit()}",
        f"host: {socket.gethostname()}",
        f"system: {platform.platform()}",
        f"python: {platform.python_version()}",
        *(f"{package}: {metadata.version(package)}" for package in packages),
        f"cpu: {cpu_name()} ({os.cpu_count()} cores)",
    ]
    return "\n".join(lines) + "\n"


def command() -> str:
    """Return the command that started this task, preceded by the environment variables in VARIABLES.

    The command was started in the folder that `environment` reports. If torchrun started this process,
    `distributed.launch` has stored the command in TASK_COMMAND.
    """
    started = os.environ.get("TASK_COMMAND") if "TORCHELASTIC_RUN_ID" in os.environ else None
    variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    return " ".join(
        [*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), started or shlex.join(sys.orig_argv)]
    )


def git_commit(repository: Path = REPOSITORY) -> str:
    """Return the first 12 digits of the commit, or "unknown", with "-dirty" if files are changed or untracked.

    Changes in experiments/records.md and models/pretrained are ignored. `make record` and `make pretrained` write them.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=repository, capture_output=True, text=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
        return commit + (
            "-dirty"
            if git("status", "--porcelain", "--", ".", ":!experiments/records.md", ":!models/pretrained")
            else ""
        )
    except OSError:
        return "unknown (git is not installed)"


def read_starts(run: Path) -> list[dict[str, str]]:
    """Read the file ENVIRONMENT of a run. Return one dict of its values for each start of the run. Raises OSError."""
    starts: list[dict[str, str]] = [{}]
    for line in (run / ENVIRONMENT).read_text(encoding="utf-8", errors="replace").splitlines():
        key, colon, value = line.partition(": ")
        if line == "resumed":
            starts.append({})
        elif colon:
            starts[-1][key] = value
    return [start for start in starts if start]
