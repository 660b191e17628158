"""Facts about the machine and the code that a run started with."""

from __future__ import annotations

import os
import platform
import shlex
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from models.processes import cpu_name
from models.runs.status import _now

REPOSITORY = Path(__file__).parents[2]


def environment() -> str:
    """Versions, machine, git commit and command line, as text."""
    packages = ("torch", "torchvision", "numpy", "safetensors", "tyro")
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    except OSError:
        commit = "unknown (git is not installed)"
    lines = [
        f"started: {_now()}",
        f"command: {shlex.join([sys.executable, *sys.argv])}",
        f"folder: {os.getcwd()}",
        f"commit: {commit}",
        f"host: {socket.gethostname()}",
        f"system: {platform.platform()}",
        f"python: {platform.python_version()}",
        *(f"{package}: {metadata.version(package)}" for package in packages),
        f"cpu: {cpu_name()} ({os.cpu_count()} cores)",
    ]
    return "\n".join(lines) + "\n"


def git_commit(repository: Path = REPOSITORY) -> str:
    """Of the code; with "-dirty" where files differ from it or are new, but for the records, which every record
    changes."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=repository, capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!experiments/records.md")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("-dirty" if changed else "")
