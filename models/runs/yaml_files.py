"""YAML mappings, read without executing anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from models.errors import UserError


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; nothing in it is executed. Raises UserError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: expected lines of the form flag: value")
    return content


def plain(value: Any) -> Any:
    """Tuples as lists, at any depth: what comes back from YAML."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (tuple, list)) else value
