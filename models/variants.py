"""Large variants by name: in a package of them, a module that exposes a class of its own name (unet.py -> UNet) is one.

The package's `__path__` says where its modules lie; a file added to any folder there is found without further ado.
"""

import difflib
import importlib
import pkgutil
from typing import TypeVar

from models.errors import UserError

Variant = TypeVar("Variant")


def names(package: str, base: type = object) -> list[str]:
    """The modules of an importable package that expose a class of their own name and that base, alphabetically."""
    folders = importlib.import_module(package).__path__
    modules = [module.name for module in pkgutil.iter_modules(folders)]
    return sorted(name for name in modules if _exposed(package, name, base) is not None)


def find(package: str, name: str, word: str, base: type[Variant] = object) -> type[Variant]:
    """The class of the module `name`. Raises UserError, with a suggestion, where there is none; word: what it is."""
    known = names(package, base)
    variant = _exposed(package, name, base) if name in known else None
    if variant is None:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"no {word} is called {name!r}: {hint}choose from {', '.join(known)}")
    return variant


def _exposed(package: str, module: str, base: type[Variant]) -> type[Variant] | None:
    wanted = module.replace("_", "")
    for name, value in vars(importlib.import_module(f"{package}.{module}")).items():
        if name.replace("_", "").lower() == wanted and isinstance(value, type) and issubclass(value, base):
            return value
    return None
