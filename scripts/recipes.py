"""List all recipes: the named settings in scripts/cli/recipes.py."""

if not __package__:
    __import__("cli")  # says what to type, and exits

import argparse
from collections.abc import Sequence

from scripts.cli.recipes import RECIPES


def recipes_table() -> str:
    """Return two lines per recipe: name, task and description in the first, the command in the second."""
    cells = [(name, recipe.task, recipe.about, recipe.command(name)) for name, recipe in RECIPES.items()]
    return "\n".join(f"{name:<22}{task:<14}{about}\n{'':<22}{command}" for name, task, about, command in cells)


def main(argv: Sequence[str]) -> None:
    description = "List every recipe: its name, task, description and command."
    parser = argparse.ArgumentParser(prog="recipes", description=description)
    _, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.exit(2, f"error: recipes takes no flags: {' '.join(unknown)}\n")
    print(recipes_table())


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
