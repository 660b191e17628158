"""The networks: every module here that exposes a class of its own name (unet.py -> UNet) is one, found by that name.

A network is built as `Class(shape, classes, **options)` and called as `network(noisy, t, label)`. What its output means
is the prediction's business, and its training the loop's.
"""

from torch import nn

from models import variants


def names() -> list[str]:
    """The names that `find` accepts, in alphabetical order."""
    return variants.names(__name__, nn.Module)


def find(name: str) -> type[nn.Module]:
    """The network class of the module `name`. Raises UserError, with a suggestion, where there is none."""
    return variants.find(__name__, name, "network", nn.Module)
