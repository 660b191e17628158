"""The texts that tyro prints: the help of each flag, and error messages in one line."""

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from typing_extensions import Doc
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

REGISTRY = ConstructorRegistry()


@REGISTRY.struct_rule
def describe_flags(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Describe a dataclass of flags to tyro. Help texts are one paragraph; `value_names` names the values of a flag."""
    if not dataclasses.is_dataclass(info.type):
        return None
    fields = []
    for name, declared in field_types(info.type).items():
        kind: Any = declared
        if not dataclasses.is_dataclass(getattr(info.default, name)):
            kind = Annotated[kind, tyro.conf.arg(metavar=value_names(kind), help_behavior_hint=_default_hint)]
        text = functools.partial(_text, info.type, name)
        fields.append(StructFieldSpec(name, kind, getattr(info.default, name), text))
    return StructConstructorSpec(info.type, tuple(fields))


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, with their metadata."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _text(cls: type, name: str) -> str | None:
    """Return the help text of a field: from its class, else from the nearest parent with one, else from its type."""
    parents = filter(dataclasses.is_dataclass, cls.__mro__)
    return next((texts[name] for texts in map(help_texts, parents) if name in texts), doc_of(field_types(cls)[name]))


def doc_of(kind: Any) -> str | None:
    """Return the help text in a type, `Annotated[..., Doc(text)]`."""
    return next((extra.documentation for extra in getattr(kind, "__metadata__", ()) if isinstance(extra, Doc)), None)


@functools.cache
def help_texts(source: str | type | None) -> dict[str, str]:
    """Return the help texts of the arguments in a docstring, or of the fields of a class. Each is one paragraph."""
    docstring, below = (source.__doc__, _texts_below(source)) if isinstance(source, type) else (source, {})
    params = docstring_parser.parse(docstring or "").params
    texts = {**below, **{param.arg_name: param.description or "" for param in params}}
    return {name: " ".join(text.split()) for name, text in texts.items()}


def _texts_below(cls: type) -> dict[str, str]:
    """Return the strings below the fields of a class at the top level of its file; none for other classes."""
    try:
        tree = syntax_tree(Path(inspect.getfile(cls)))  # The file is parsed once for all of its classes.
    except (OSError, TypeError):  # The class is not written in a file.
        return {}
    return {
        field.target.id: below.value.value
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__
        for field, below in pairwise(node.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def syntax_tree(path: Path) -> ast.Module:
    """Return the syntax tree of a source file. A file that has not changed is parsed once."""
    return _parsed(path, path.stat().st_mtime_ns)


@functools.cache
def _parsed(path: Path, changed: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def braced(names: Iterable[str]) -> str:
    """Return names in the form of the help texts: {one,other}."""
    return f"{{{','.join(names)}}}"


def value_names(kind: Any) -> str | None:
    """Return the values that a flag takes, e.g. INT, [FLOAT ...], {one,other}; None for a switch.

    The metadata of `kind` may have the names, or a function that returns them.
    """
    metadata = getattr(kind, "__metadata__", ())
    functions: list[Any] = [extra for extra in metadata if callable(extra)]
    if functions:
        return braced(functions[0]())
    for extra in metadata:
        if getattr(extra, "metavar", None):
            return extra.metavar
    if kind is bool:
        return None
    parts = [part for part in get_args(kind) if part is not NoneType]
    if get_origin(kind) is Literal:
        return braced(map(str, parts))
    if get_origin(kind) is tuple:
        return f"[{value_names(parts[0])} ...]" if Ellipsis in parts else " ".join(map(str, map(value_names, parts)))
    return value_names(parts[0]) if parts else kind.__name__.upper()


def listed_names(kind: Any) -> list[str]:
    """Return the names that a flag may take; its help shows {one,other}. A flag without names gives a single entry."""
    return (value_names(kind) or "").strip("{}").split(",")


def _default_hint(default: str) -> str:
    """Return the end of a help text. A default of None is left out: the text says what happens without the flag."""
    return "" if default in ("None", "") else f"(default: {default})"


def wrapped(description: str) -> str:
    """Wrap the description of a task. tyro does not wrap, and it joins lines that begin with a letter."""
    return textwrap.fill(description, 80, subsequent_indent="  ")


def error_line(box: str, prog: str, kinds: Mapping[str, Any]) -> str:
    """Convert tyro's boxed error message to one line: the error, and the flag that was probably meant.

    The box has a title, a message and hints, separated by horizontal lines. It may have colours or be drawn in ASCII.
    kinds: the types of the flags.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    rows = [line.strip(" │╭╮╰╯") for line in plain.splitlines()]
    parts: list[list[str]] = [[]]
    for row in [row for row in rows if row][1:]:
        if set(row) <= {"─", "-"}:
            parts.append([])
        else:
            parts[-1].append(row)
    message, *hints = [part for part in parts if part]
    text = " ".join(message).split(" Got errors:")[0]
    if choice := re.fullmatch(r"invalid choice '(.*)' for argument '--(\S*)'. Expected one of \((.*)\)\s*\.", text):
        names = [name for name in re.findall(r"'([^']*)'", choice[3]) if name != "None"]
        return f"`{choice[2]}` {choice[1]}: choose from {', '.join(names)}"
    if wrong := re.match(r"(?:Error parsing|Missing value for argument) '?--([\w.]+)'?[:.] (.*)", text):
        option = next(name for name in kinds if name.split(".", 1)[-1] == wrong[1] or name == wrong[1])
        value, names = " ".join(re.findall(r"'([^']*)'", wrong[2])), value_names(kinds[option])
        return f"`{wrong[1]}` {value}: must be {names}" if value else f"`{wrong[1]}`: a value is missing, {names}"
    flag = next((row.split()[0] for hint in hints for row in hint if row.startswith("--")), "").rstrip(",")
    if flag and text.startswith("Unrecognized"):
        text += f"; did you mean {flag}?"
    return f"{text} (--help lists the flags of {prog})"
