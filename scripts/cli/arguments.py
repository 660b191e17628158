"""Convert a command line to flags, flags to a config, and a config to flags.

A config is a flat mapping from flag to plain value. Settings of a recipe, a --config file or a resumed run become the
defaults; then tyro parses the command line.
"""

import dataclasses
import gc
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import field
from itertools import zip_longest
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import tyro

from models.errors import UserError, suggestion
from models.places import expanded
from models.ranges import check_ranges
from scripts.cli.early import check_name
from scripts.cli.help import REGISTRY, error_line, field_types, listed_names, wrapped
from scripts.cli.signatures import Option

Flags = TypeVar("Flags")
SWITCH = ("auto", "on", "off")
NOT_STORED = ("resume", "changed_data", "config", "recipe", "graph")
# Flags that are read first: they decide which other flags exist, and what their defaults are.
READ_AHEAD = (
    *("run", "checkpoint", "experiments_dir", "resume", "init_from", "config", "recipe"),
    *("network", "space", "dataset", "task"),
)
_spellings: dict[str, str] = {}  # Option name -> flag, for the options of this task. Filled by parse_flags.


def parse_flags(
    argv: Sequence[str], default: Flags, prog: str, description: str, settings: Mapping[str, Any] | None = None
) -> Flags:
    """Parse a command line and return the flags. With -h, print the help and exit with code 0.

    settings: a config whose values replace the defaults. If the command line chooses another network than the config,
    the config's network options are dropped. The same holds for space and data set. Raises UserError for unknown flags
    and for values out of range.
    """
    argv = spell_out(argv)
    settings, _ = merge(default, ("", settings or {}), ("", chosen_variants(default, argv)))
    flags, unknown = with_settings(default, settings)
    if unknown:
        raise UserError(f"unknown setting {unknown[0]}{suggestion(unknown[0], to_config(flags))}")
    names = [name for name, _, _ in leaves(flags)]
    short = [name.removeprefix("space.") for name in names if name.startswith("space.")]
    _spellings.update({name: f"--{name}" for name in (*short, *names)})
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            flags = tyro.cli(
                type(flags),
                args=argv,
                default=flags,
                prog=prog,
                description=wrapped(description),
                use_underscores=True,
                registry=REGISTRY,
            )
    except SystemExit as error:
        if not error.code:
            raise
        kinds = {name: kind for name, _, kind in leaves(flags)}
        _refuse_misplaced(argv, flags, kinds)
        raise UserError(error_line(printed.getvalue(), prog, kinds)) from None
    gc.enable()
    for name, value, kind in leaves(flags):
        check_ranges({name: value}, {name: kind})
        check_name(name, value, kind)
    return flags


def _refuse_misplaced(argv: Sequence[str], flags: Any, kinds: Mapping[str, Any]) -> None:
    """Raise UserError if an option belongs to another network, space or data set. The message names the owner."""
    for name in (word.partition("=")[0].removeprefix("--").replace("-", "_") for word in argv if word.startswith("--")):
        room, _, option = name.partition(".")
        if not option or name in kinds or room not in getattr(flags, "variants", ()):
            continue
        owners = [
            owner
            for owner in listed_names(kinds[room])
            if option in {known.name for known in flags.variants[room](owner)}
        ]
        if owners:
            message = f"--{name}: {getattr(flags, room) or f'the default {room}'} has no such option"
            raise UserError(message, f"choose `{room}` {' or '.join(owners)}")


def spell(option: str) -> str | None:
    """Return the flag of an option in this task, e.g. --steps; None if the task has no such flag.

    `option` may lack the prefix "network.", "space." or "dataset.". Before flags are parsed, returns `--option`.
    """
    if not _spellings or option in _spellings:
        return _spellings.get(option, f"--{option}")
    prefixed = [name for name in _spellings if name.endswith(f".{option}")]
    return f"--{prefixed[0]}" if len(prefixed) == 1 else None


def forget_flags() -> None:
    """Clear the flags that `spell` knows from earlier tasks in this process."""
    _spellings.clear()


def spell_out(argv: Sequence[str]) -> list[str]:
    """Expand `--dataset hf:NAME` to --dataset hf --dataset.path NAME, and ~ at the start of a value.

    Also replace --compile by --compile on, --no_compile by --compile off, --tensorboard by --logger tensorboard, and
    --no_tensorboard by --logger none.
    """
    words: list[str] = []
    for word, following in zip_longest(argv, argv[1:]):
        if word.replace("-", "_") == "__no_compile" or (word == "--compile" and following not in SWITCH):
            words += ["--compile", "off" if "no" in word else "on"]
            continue
        if word.replace("-", "_") in ("__tensorboard", "__no_tensorboard"):
            words += ["--logger", "none" if "no" in word else "tensorboard"]
            continue
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        before = flag or (words[-1] if words else "")
        if before == "--dataset" and value.startswith("hf:"):
            head = ["--dataset", "hf"] if flag else ["hf"]
            words += [*head, "--dataset.path", expanded(value.removeprefix("hf:"))]
        else:
            words.append(flag + equals + expanded(value))
    return words


def read_ahead(argv: Sequence[str]) -> dict[str, str]:
    """Return the values of the READ_AHEAD flags. As in tyro, the last occurrence of a flag wins."""
    values, argv = {}, spell_out(argv)
    for word, following in zip_longest(argv, argv[1:]):
        name, equals, value = word.partition("=")
        flag = name.removeprefix("--").replace("-", "_")
        if name.startswith("--") and flag in READ_AHEAD and (equals or following is not None):
            values[flag] = value if equals else str(following)
    return values


def chosen_variants(default: object, argv: Sequence[str]) -> dict[str, str]:
    """Return the network, space and data set that the command line names. Flags that the task lacks are left out."""
    return {word: name for word, name in read_ahead(argv).items() if word in getattr(default, "variants", ())}


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments at --. The arguments after -- are for another task."""
    at = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:at]), list(argv[at + 1 :])


# -- settings ---------------------------------------------------------------------------------------------------------


def merge(default: object, *layers: tuple[str, Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Merge layers of settings. Return the settings, and the names of those that were left out. Later layers win.

    default: flags with the default network, space and data set. layers: pairs of name and settings; the name is ""
    for defaults and the command line. Options of a network are left out if a later layer chooses another network. The
    same holds for space and data set. Left-out options of a layer without a name are not among the returned names.
    """
    words = tuple(getattr(default, "variants", ()))
    settings: dict[str, Any] = {word: getattr(default, word) for word in words}
    source: dict[str, str] = {}
    left_out = []
    for layer_name, layer in layers:
        if str(layer.get("dataset")).startswith("hf:"):
            layer = {**layer, "dataset": "hf", "dataset.path": layer["dataset"].removeprefix("hf:")}
        exchanged = [f"{word}." for word in words if layer.get(word, settings[word]) != settings[word]]
        for key in [key for key in settings if key.startswith(tuple(exchanged))]:
            del settings[key]
            if source[key]:
                left_out.append(f"{key} of {source[key]}")
        settings |= layer
        source |= dict.fromkeys(layer, layer_name)
    return settings, left_out


def with_settings(default: Flags, settings: Mapping[str, Any]) -> tuple[Flags, list[str]]:
    """Return flags with the values of `settings`, and the names of the settings that are no flags of the task.

    The flags include the options of the network, space and data set that the settings name, with their types.
    """
    settings = renamed(settings)
    plain = _replaced(default, settings)
    values = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}  # type: ignore[arg-type]
    words = getattr(default, "variants", {})
    fields = []
    for word in words:
        options = words[word](getattr(plain, word))
        kind = _options_class(word, options, settings, taken=values.keys() | to_config(plain).keys())
        fields.append((f"{word}_options", Annotated[kind, tyro.conf.arg(name=word)], field(default_factory=kind)))
        values[f"{word}_options"] = kind()
    cls = dataclasses.make_dataclass(type(default).__name__, fields, bases=(type(default),), frozen=True)
    flags: Flags = cls(**values)  # type: ignore[assignment]
    known = to_config(flags)
    return flags, [key for key in settings if key not in known]


def renamed(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings, with names from older configs replaced by the current names."""
    if "tensorboard" not in settings:
        return settings
    others = {key: value for key, value in settings.items() if key != "tensorboard"}
    return {"logger": "tensorboard" if settings["tensorboard"] else "none", **others}


def _replaced(flags: Flags, settings: Mapping[str, Any]) -> Flags:
    """Return the flags, including nested ones, with the values of `settings`. Unknown settings are ignored."""
    hints, values = field_types(type(flags)), {}
    for member in dataclasses.fields(flags):  # type: ignore[arg-type]
        value = getattr(flags, member.name)
        if dataclasses.is_dataclass(value) and not member.name.endswith("_options"):
            values[member.name] = _replaced(value, settings)
        elif member.name in settings and member.name not in NOT_STORED:
            values[member.name] = fitted(member.name, settings[member.name], hints[member.name])
    return dataclasses.replace(flags, **values)  # type: ignore[type-var]


def _options_class(word: str, options: Sequence[Option], settings: Mapping[str, Any], taken: Any) -> type:
    """Return a dataclass of a variant's options.

    Options of a space can be given without their prefix, e.g. --autoencoder, unless another flag has that name.
    """
    fields = []
    for option in options:
        key = f"{word}.{option.name}"
        short = [f"--{option.name}"] if word == "space" and option.name not in (*taken, *NOT_STORED) else None
        kind = Annotated[option.kind, tyro.conf.arg(help=option.help, aliases=short)]
        default = fitted(key, settings[key], option.kind) if key in settings else option.default
        fields.append((option.name, kind, field(default=default)))
    return dataclasses.make_dataclass(f"{word.capitalize()}Options", fields, frozen=True)


def fitted(name: str, value: Any, kind: Any) -> Any:
    """Convert a plain value from a config to the type of the flag `name`. Raises UserError if that is impossible."""
    try:
        return _converted(value, kind)
    except (TypeError, ValueError):
        raise UserError(f"`{name}` {value}: not a value of this setting") from None


def _converted(value: Any, kind: Any) -> Any:
    arguments = get_args(kind)
    if get_origin(kind) is Annotated:
        return _converted(value, arguments[0])
    if NoneType in arguments:
        return None if value is None else _converted(value, next(part for part in arguments if part is not NoneType))
    if get_origin(kind) is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        kinds = [arguments[0]] * len(items) if Ellipsis in arguments else arguments
        return tuple(_converted(item, part) for item, part in zip(items, kinds, strict=True))
    if arguments == SWITCH and isinstance(value, bool):  # a bool in older configs; YAML also reads `on` as true
        value = "on" if value else "off"
    valid = value in arguments if get_origin(kind) is Literal else isinstance(value, bool) or kind is not bool
    if not valid or value is None or isinstance(value, (list, dict)):
        raise ValueError
    if kind is str:
        return expanded(str(value))
    return kind(str(value)) if kind in (int, float) else value


def leaves(flags: object) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, value and type of every flag, in the order of the help. Options have names such as network.width."""
    hints = field_types(type(flags))
    for member in dataclasses.fields(flags):  # type: ignore[arg-type]
        value = getattr(flags, member.name)
        if member.name.endswith("_options"):
            prefix = member.name.removesuffix("_options")
            options = leaves(value) if value is not None else ()
            yield from ((f"{prefix}.{name}", option, kind) for name, option, kind in options)
        elif dataclasses.is_dataclass(value):
            yield from leaves(value)
        else:
            yield member.name, value, hints[member.name]


def to_config(flags: object) -> dict[str, Any]:
    """Return flags as a config, a flat mapping from names to plain values. The flags NOT_STORED are left out."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value, _ in leaves(flags)
        if name not in NOT_STORED
    }


def to_arguments(config: Mapping[str, Any]) -> list[str]:
    """Return the command-line arguments that give the settings of a config."""
    arguments: list[str] = []
    for key, value in config.items():
        if isinstance(value, bool):
            prefix, _, last = key.rpartition(".")
            name = last if value else f"no_{last}"
            arguments.append(f"--{prefix}.{name}" if prefix else f"--{name}")
        elif isinstance(value, (list, tuple)):
            arguments += [f"--{key}", *map(str, value)]
        else:
            arguments.append(f"--{key}={value}")
    return arguments
