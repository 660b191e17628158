"""YAML files that hold one mapping. Reading them executes nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from models.errors import UserError

SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # The former is ten times as fast, and not in every build.


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises UserError if the file cannot be read or holds no mapping."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=SafeLoader)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: expected lines of the form name: value")
    return content


def plain(value: Any) -> Any:
    """Convert tuples to lists at any depth, as writing to YAML and reading back does."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value
