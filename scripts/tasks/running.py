"""Running another task in this process."""

import importlib
import io
from contextlib import redirect_stdout
from pathlib import Path


def run_task(task: str, *words: object) -> Path:
    """Run a task with these arguments and return the path that it prints."""
    with redirect_stdout(io.StringIO()) as printed:
        importlib.import_module(f"scripts.{task}").main([str(word) for word in words])
    return Path(printed.getvalue().strip())
