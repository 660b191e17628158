"""Library of denoising models. Notebooks use `from models import load, sample`; both are imported at first use."""

from typing import Any

_DOOR = {"load": "models.model", "sample": "models.generation"}


def __getattr__(name: str) -> Any:
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_DOOR[name]), name)
