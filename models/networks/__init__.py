"""The networks: every module here that exposes a class of its own name (unet.py -> UNet) is one, found by that name.

A network is built as `Class(shape, classes, **options)` and called as `network(noisy, t, label)`. What its output means
is the prediction's business, and its training the loop's.
"""

import difflib
import importlib
import pkgutil
from functools import cache

from torch import nn

from models.errors import UserError


@cache
def names() -> list[str]:
    """The names that `find` accepts, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if _network(module.name) is not None)


def find(name: str) -> type[nn.Module]:
    """The network class of the module `name`. Raises UserError, with a suggestion, where there is none."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"no network is called {name!r}: {hint}choose from {', '.join(names())}")
    network = _network(name)
    assert network is not None
    return network


def _network(module_name: str) -> type[nn.Module] | None:
    wanted = module_name.replace("_", "")
    module = importlib.import_module(f"{__name__}.{module_name}")
    for name, value in vars(module).items():
        if name.replace("_", "").lower() == wanted and isinstance(value, type) and issubclass(value, nn.Module):
            return value
    return None
