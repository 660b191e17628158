"""Named settings behind `make train_mnist` and friends: plain data, by flag. Flags beside them win.

`make recipes` lists them. A comment says what a recipe gave, where and when; without one it has not been measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from scripts.cli.recipes import RECIPES


def recipes_table() -> str:
    """Every recipe by task: its name, what it is, and the command."""
    cells = [(name, recipe.task, recipe.about, recipe.command(name)) for name, recipe in RECIPES.items()]
    return "\n".join(f"{name:<22}{task:<14}{about}\n{'':<22}{command}" for name, task, about, command in cells)


def main(argv: Sequence[str]) -> None:
    argparse.ArgumentParser(prog="recipes", description="Every recipe: name, task, what it is, command.").parse_args(
        argv
    )
    print(recipes_table())


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
