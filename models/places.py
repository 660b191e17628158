"""Paths: files and folders of the repository, and ~ in paths that a user types."""

import os
from pathlib import Path

PRETRAINED = Path(__file__).resolve().parent / "pretrained"  # Trained models and feature networks.
EXPERIMENTS = "experiments"  # Default parent folder of all runs.
PALETTE = PRETRAINED.with_name("drawing") / "palette.css"  # Colours of all HTML pages.


def expanded(place: str) -> str:
    """Return a path with a leading ~ or ~user replaced by the home folder. Other text is returned as is.

    The shell does not expand the ~ in `--flag=~/folder` or in quotes. For YAML files and notebooks, there is no shell.
    """
    return os.path.expanduser(place)


def experiments_dir() -> str:
    """Return the default parent folder of all runs: the variable EXPERIMENTS_DIR, else experiments.

    The launcher reads the same variable.
    """
    return expanded(os.environ.get("EXPERIMENTS_DIR") or EXPERIMENTS)
