"""Read the options of a variant from its source code, without importing it: the import of torch takes seconds.

Options are keyword-only arguments, with their types, defaults and help. Names of small variants are keys of a table.
If the source cannot be analysed, the module is imported instead.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from models.variants import Room, package_folders
from scripts.cli.help import doc_of, help_texts, syntax_tree

# Modules that import no torch. Names in annotations may come from them.
PLAIN_MODULES = ("typing", "typing_extensions", "collections.abc", "pathlib", "models.ranges", "models.variants")
NOT_PLAIN = (ValueError, LookupError, TypeError, AttributeError, OSError, StopIteration)


@dataclass(frozen=True)
class Option:
    """One option of a variant. kind: its type annotation, including ranges and other Annotated metadata."""

    name: str
    kind: Any
    default: Any
    help: str


def options_of(room: Room, name: str, method: str = "__init__") -> tuple[Option, ...]:
    """Return the options of a large variant: the keyword-only arguments of its constructor, or of another method.

    Raises UserError, with a suggestion, if there is no variant of that name.
    """
    path = room.source(name)
    try:
        return read_options(path, method)
    except NOT_PLAIN:
        return import_options(room.find(name), method)


def names_in(module: str, table: str) -> tuple[str, ...]:
    """Return the names of small variants: the keys of a table, or the elements of a tuple."""
    try:
        return tuple(_Scope(_source(module))[table])
    except NOT_PLAIN:
        return tuple(getattr(importlib.import_module(module), table))


def read_options(path: Path, method: str = "__init__") -> tuple[Option, ...]:
    """Return the options of the variant in a file. Raises one of NOT_PLAIN if the source cannot be analysed."""
    scope = _Scope(path)
    classes = (node for node in scope.tree.body if isinstance(node, ast.ClassDef))
    variant = next(node for node in classes if node.name.lower() == path.stem.replace("_", ""))
    functions = [node for node in variant.body if isinstance(node, ast.FunctionDef) and node.name == method]
    if not functions and (len(variant.bases) > 1 or (variant.decorator_list and method == "__init__")):
        raise ValueError(f"{path}: the source of {method} is elsewhere")
    texts = help_texts(ast.get_docstring(variant))
    return tuple(option for function in functions for option in _keywords(scope, function, texts))


def options_of_function(module: str, name: str) -> tuple[Option, ...]:
    """Return the options of a small variant: the keyword-only arguments of its function in a module."""
    try:
        scope = _Scope(_source(module))
        function = next(node for node in scope.tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
        return tuple(_keywords(scope, function, {}))
    except NOT_PLAIN:
        return _import_keywords(getattr(importlib.import_module(module), name))


def _keywords(scope: _Scope, function: ast.FunctionDef, texts: Mapping[str, str]) -> Iterator[Option]:
    """Yield the keyword-only arguments of a function in a file. texts: help texts from the class's docstring."""
    arguments, texts = function.args, {**texts, **help_texts(ast.get_docstring(function))}
    if arguments.kwarg is not None:
        raise ValueError(f"{function.name} takes any keyword")
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if argument.annotation is None or default is None:
            raise ValueError(f"{function.name}: {argument.arg} has no type or no default")
        kind = scope.value(argument.annotation)
        yield Option(argument.arg, kind, ast.literal_eval(default), texts.get(argument.arg) or doc_of(kind) or "")


def import_options(variant: type, method: str = "__init__") -> tuple[Option, ...]:
    """Return the options of an imported variant."""
    return _import_keywords(getattr(variant, method), help_texts(inspect.getdoc(variant)))


def _import_keywords(function: Callable[..., Any], texts: Mapping[str, str] | None = None) -> tuple[Option, ...]:
    hints = get_type_hints(function, include_extras=True)
    texts = {**(texts or {}), **help_texts(inspect.getdoc(function))}
    return tuple(
        Option(name, hints[name], parameter.default, texts.get(name) or doc_of(hints[name]) or "")
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    )


def _source(module: str) -> Path:
    package, *below = module.split(".")
    stems = [Path(folder, *below) for folder in package_folders(package)]
    candidates = [path for stem in stems for path in (stem.with_suffix(".py"), stem / "__init__.py")]
    return next(path for path in candidates if path.is_file())


class _Scope(dict[str, Any]):
    """Values of a file's top-level names. A value is evaluated when an expression uses its name."""

    def __init__(self, path: Path) -> None:
        self.tree = syntax_tree(path)

    def value(self, node: ast.expr) -> Any:
        """Return the value of an expression. For a dict literal, return the list of its keys and skip the values."""
        if isinstance(node, ast.Dict):
            return [ast.literal_eval(key) for key in node.keys if key is not None]
        return eval(compile(ast.Expression(node), "<annotation>", "eval"), {"__builtins__": {}}, self)

    def __missing__(self, name: str) -> Any:
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        return self.setdefault(name, _from_module(node.module, alias.name))
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return self.setdefault(name, self.value(node.value))  # type: ignore[attr-defined]
        if hasattr(builtins, name):
            return getattr(builtins, name)
        raise LookupError(name)


def _from_module(module: str, name: str) -> Any:
    if module in PLAIN_MODULES:
        return getattr(importlib.import_module(module), name)
    return _Scope(_source(module))[name]
