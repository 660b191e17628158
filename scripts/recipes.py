"""List all recipes: the named settings in scripts/cli/recipes.py."""

if not __package__:
    __import__("cli")  # says what to type, and exits

import argparse
from collections.abc import Sequence
from textwrap import fill

from scripts.cli.recipes import RECIPES, described


def recipes_table() -> str:
    """Return the lines of all recipes: name, task and description; the command; and what changes on a GPU."""
    lines, margin = [], " " * 22
    for name, recipe in RECIPES.items():
        lines += [f"{name:<22}{recipe.task:<14}{recipe.about}", margin + recipe.command(name)]
        if recipe.gpu:
            changes = f"on a GPU: {described(recipe.gpu)}"
            lines.append(fill(changes, 80, initial_indent=margin, subsequent_indent=margin))
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    description = "List every recipe: its name, task, description, command, and what it changes on a GPU."
    parser = argparse.ArgumentParser(prog="recipes", description=description)
    _, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.exit(2, f"error: recipes takes no flags: {' '.join(unknown)}\n")
    print(recipes_table())


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
