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


def environment() -> str:
    """Return versions, machine, git commit and command line, one `key: value` a line."""
    packages = ("torch", "torchvision", "numpy", "safetensors", "tyro")
    lines = [
        f"started: {utc_now()}",
        f"command: {shlex.join([sys.executable, *sys.argv])}",
        f"folder: {os.getcwd()}",
        f"commit: {git_commit()}",
        f"host: {socket.gethostname()}",
        f"system: {platform.platform()}",
        f"python: {platform.python_version()}",
        *(f"{package}: {metadata.version(package)}" for package in packages),
        f"cpu: {cpu_name()} ({os.cpu_count()} cores)",
    ]
    return "\n".join(lines) + "\n"


def git_commit(repository: Path = REPOSITORY) -> str:
    """Return the first 12 digits of the commit, or "unknown", with "-dirty" if files are changed or untracked.

    Changes in experiments/records.md are ignored, because every record changes that file.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=repository, capture_output=True, text=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
        return commit + ("-dirty" if git("status", "--porcelain", "--", ".", ":!experiments/records.md") else "")
    except OSError:
        return "unknown (git is not installed)"
