"""Paths: files and folders of the repository, and ~ in paths that a user types."""

import os
from pathlib import Path

PRETRAINED = Path(__file__).resolve().parent / "pretrained"  # Trained models and feature networks.
PALETTE = PRETRAINED.with_name("drawing") / "palette.css"  # Colours of all HTML pages.


def expanded(place: str) -> str:
    """Return a path with a leading ~ or ~user replaced by the home folder. Other text is returned as is.

    A ~ is not expanded in `--flag=~/folder`, in quoted environment variables, in YAML files and in notebooks.
    """
    return os.path.expanduser(place)


def experiments_dir() -> str:
    """Return the default parent folder of all runs. The launcher also reads the variable EXPERIMENTS_DIR."""
    return expanded(os.environ.get("EXPERIMENTS_DIR") or "experiments")
