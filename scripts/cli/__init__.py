"""The command line: flags, settings, recipes, exit codes and the terminal. Nothing here imports torch."""

if __name__ == "cli":
    # `python scripts/TASK.py` puts scripts/ on the path instead of the repository. Each task then imports this.
    import sys
    from importlib.util import find_spec
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[2]))
    from scripts import advise

    complete = all(find_spec(package) for package in ("torch", "tyro"))
    advise("tasks are modules, not files", sys.orig_argv[0] if complete else None)
