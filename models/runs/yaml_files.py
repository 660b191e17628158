"""YAML files that hold one mapping. Reading them executes no code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from models.errors import UserError

# CSafeLoader is ten times as fast, but not every build of PyYAML has it.
SafeLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises UserError if the file cannot be read, holds no mapping, or has a key twice."""
    try:
        content = _read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: expected lines of the form name: value")
    return content


def _read(text: str) -> Any:
    loader = SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_keys(node, set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_keys(node: yaml.Node, checked: set[int]) -> None:
    """Raise YAMLError if a key is given twice. PyYAML would use the last value. checked: ids of the checked nodes."""
    if id(node) in checked or not isinstance(node, yaml.CollectionNode):
        return
    checked.add(id(node))
    keys: set[tuple[str, str]] = set()
    for part in node.value:
        key, value = part if isinstance(node, yaml.MappingNode) else (None, part)
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in keys:
                message = f"the key {key.value} is given twice"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            keys.add((key.tag, key.value))
        _check_keys(value, checked)


def plain(value: Any) -> Any:
    """Convert tuples to lists at any depth, as writing to YAML and reading back does."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value
