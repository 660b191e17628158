"""Files and folders as people type them."""

import os
from pathlib import Path

PRETRAINED = Path(__file__).resolve().parent / "pretrained"  # Models and feature networks of the repository.
PALETTE = PRETRAINED.with_name("drawing") / "palette.css"  # Colours of all pages for a browser.


def expanded(place: str) -> str:
    """Return a path with a leading ~ or ~user replaced by the home folder. Other text is returned as is.

    A shell leaves the ~ of `--flag=~/folder`, and nothing else expands it in variables, YAML files and notebooks.
    """
    return os.path.expanduser(place)


def experiments_dir() -> str:
    """Return the default parent folder of all runs. The launcher reads the same environment variable."""
    return expanded(os.environ.get("EXPERIMENTS_DIR") or "experiments")
