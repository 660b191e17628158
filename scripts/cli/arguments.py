"""From a command line to flags, and from flags to a config and back.

A config is a flat mapping from flag to value. Recipes, --config files and the config of a resumed run are turned
back into arguments and read before the command line's own, so that there is one parser and the last word wins.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import docstring_parser
import tyro

from models.errors import UserError
from models.runs.lookup import find_run
from models.runs.status import read_status
from models.runs.yaml_files import read_yaml
from scripts.cli.flags import VARIANTS, braced, experiments_dir
from scripts.cli.recipes import settings_of

Flags = TypeVar("Flags")
NOT_STORED = ("resume", "config", "recipe")


def _options_class(
    name: str, constructor: Callable[..., Any], taken: Collection[str], changed: Mapping[str, Any]
) -> type:
    """A dataclass of a constructor's keyword-only arguments, with its types, defaults and docstring.

    Help lists the names of an argument of type Annotated[str, names], where names() gives them. A space's arguments go
    without their prefix too (--autoencoder, as one would say it), unless another flag has that name.
    """
    function = constructor.__init__ if isinstance(constructor, type) else constructor
    documented = inspect.getdoc(function) or ""
    texts = {
        param.arg_name: param.description or ""
        for source in (inspect.getdoc(constructor) or "", documented)
        for param in docstring_parser.parse(source).params
    }
    hints = get_type_hints(function, include_extras=True)
    fields = []
    for parameter in inspect.signature(constructor).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            text = " ".join(texts.get(parameter.name, "").split())
            short = [f"--{parameter.name}"] if name == "space" and parameter.name not in taken else None
            hint = hints[parameter.name]
            tables: list[Any] = [extra for extra in getattr(hint, "__metadata__", ()) if callable(extra)]
            kind = Annotated[
                hint, tyro.conf.arg(help=text, aliases=short, metavar=braced(tables[0]()) if tables else None)
            ]
            default = changed.get(f"{name}.{parameter.name}", parameter.default)
            fields.append((parameter.name, kind, field(default=default)))
    return dataclasses.make_dataclass(f"{name.capitalize()}Options", fields, frozen=True)


def _with_options(
    cls: type[Flags], chosen: Mapping[str, str], taken: Collection[str], changed: Mapping[str, Any]
) -> type[Flags]:
    """The flags with the options of the chosen variants filled in; changed: defaults by flag."""
    fields = []
    for word, name in chosen.items():
        options = _options_class(word, cls.variants[word](name), taken, changed)  # type: ignore[attr-defined]
        kind = Annotated[options, tyro.conf.arg(name=word)]
        fields.append((f"{word}_options", kind, field(default_factory=options)))
    return dataclasses.make_dataclass(cls.__name__, fields, bases=(cls,), frozen=True)  # type: ignore[return-value]


def parse_flags(
    argv: Sequence[str], default: Flags, prog: str, description: str, options: Mapping[str, Any] | None = None
) -> Flags:
    """Flags from arguments, over a default instance. Raises UserError in one line; prints help and exits 0 on -h.

    options: other defaults for the options of the default's own network, space or data set, as {"network.width": 64}.
    """
    cls, argv = type(default), spelt_out(argv)
    words = getattr(cls, "variants", {})
    chosen = {word: last_value(argv, word) or getattr(default, word) for word in words}
    own = {word for word, name in chosen.items() if name == getattr(default, word)}
    changed = {key: value for key, value in (options or {}).items() if key.split(".")[0] in own}
    cls = _with_options(cls, chosen, {*to_config(default), *NOT_STORED}, changed)
    known = {f.name: getattr(default, f.name) for f in dataclasses.fields(default)}  # type: ignore[arg-type]
    values = {key: value for key, value in known.items() if not key.endswith("_options")}
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            return tyro.cli(cls, args=argv, default=cls(**values), prog=prog, description=description)
    except SystemExit as error:
        if not error.code:
            raise
        raise UserError(_one_line(printed.getvalue(), prog)) from None


def spelt_out(argv: Sequence[str]) -> list[str]:
    """`--dataset hf:NAME` as what it is short for: --dataset hf --dataset.path NAME."""
    words: list[str] = []
    for word in argv:
        if words[-1:] == ["--dataset"] and word.startswith("hf:"):
            words += ["hf", "--dataset.path", word.removeprefix("hf:")]
        elif word.startswith("--dataset=hf:"):
            words += ["--dataset", "hf", "--dataset.path", word.removeprefix("--dataset=hf:")]
        else:
            words.append(word)
    return words


def last_value(argv: Sequence[str], flag: str) -> str | None:
    """The value of the last `--flag value` or `--flag=value`."""
    found = None
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.replace("-", "_") == f"__{flag}":
            found = value if equals else next(iter(argv[index + 1 : index + 2]), found)
    return found


def _one_line(box: str, prog: str) -> str:
    """tyro's box of an error as one line: what is wrong, and the flag it may have meant.

    The box has a title, then the message, then hints, with rules between them; drawn in ASCII where need be.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)  # on a terminal it is coloured
    rows = [line.strip(" │╭╮╰╯") for line in plain.splitlines()]
    parts: list[list[str]] = [[]]
    for row in [row for row in rows if row][1:]:
        if set(row) <= {"─", "-"}:
            parts.append([])
        else:
            parts[-1].append(row)
    message, *hints = [part for part in parts if part]
    text = " ".join(message).split(" Got errors:")[0]
    flag = next((row.split()[0] for hint in hints for row in hint if row.startswith("--")), "").rstrip(",")
    if not flag or not text.startswith("Unrecognized"):
        return f"{text} (--help lists the flags of {prog})"
    return f"{text}; did you mean --{flag[2:].replace('-', '_')}? (--help lists the flags of {prog})"


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before -- and those after it, which are for another task."""
    at = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:at]), list(argv[at + 1 :])


def check_positive(flags: object, *names: str) -> None:
    """Raises UserError where one of these whole numbers is below 1."""
    for name in names:
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} {getattr(flags, name)}: takes 1 or more")


def to_config(flags: Any) -> dict[str, Any]:
    """Flags as a flat mapping from flag to plain value, without those that only say where settings came from."""
    config: dict[str, Any] = {}
    for each in dataclasses.fields(flags):
        value = getattr(flags, each.name)
        if each.name.endswith("_options"):
            word = each.name.removesuffix("_options")
            options = dataclasses.asdict(value) if value is not None else {}
            config.update({f"{word}.{key}": _plain(option) for key, option in options.items()})
        elif dataclasses.is_dataclass(value):
            config.update(to_config(value))
        elif each.name not in NOT_STORED:
            config[each.name] = _plain(value)
    return config


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def to_arguments(config: Mapping[str, Any]) -> list[str]:
    """A flat mapping as the arguments that give it."""
    arguments: list[str] = []
    for key, value in config.items():
        if isinstance(value, bool):
            prefix, _, last = key.rpartition(".")
            name = last if value else f"no-{last}"
            arguments.append(f"--{prefix}.{name}" if prefix else f"--{name}")
        elif isinstance(value, (list, tuple)):
            arguments += [f"--{key}", *(str(each) for each in value)]
        else:
            arguments.append(f"--{key}={value}")
    return arguments


def put_before(settings: Mapping[str, Any], argv: Sequence[str]) -> list[str]:
    """The settings as arguments, then argv, which wins.

    Without the options of a network, space or data set that argv exchanges for another.
    """
    exchanged = {word for word in VARIANTS if last_value(argv, word) not in (None, settings.get(word))}
    fitting = {key: value for key, value in settings.items() if key.split(".")[0] not in exchanged}
    return [*to_arguments(fitting), *argv]


def run_to_resume(argv: Sequence[str], task: str) -> Path | None:
    """The run that --resume names, if it is given; with latest, the newest of this task and of the data set asked for.

    Read before all other flags, since the run's own settings decide how those are to be understood.
    """
    wanted = last_value(argv, "resume")
    if wanted is None:
        return None
    place = Path(last_value(argv, "experiments_dir") or experiments_dir())
    folder = find_run(wanted, place, task, last_value(gather(argv, task), "dataset"))
    other = read_status(folder).get("task")
    if other != task:
        raise UserError(f"{folder} is a run of {other}, not of {task}: resume it with {other}")
    return folder


def gather(argv: Sequence[str], task: str) -> list[str]:
    """The settings of the named recipe and the config file, if any, and the command line; the last win."""
    recipe, config = last_value(argv, "recipe"), last_value(argv, "config")
    gathered = spelt_out(argv)
    if config is not None:
        gathered = put_before(read_yaml(Path(config)), gathered)
    if recipe is not None:
        gathered = put_before(settings_of(recipe, task), gathered)
    return spelt_out(gathered)
