"""Ranges of options as part of their types, checked before anything is computed.

An option's annotation says its range: `width: PositiveInt = 32`. Numbers must be finite in any case. It also says
whether the option may change when a run is resumed: `epochs: Annotated[Positive, RESUMABLE]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from models.errors import UserError


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`. open_low, open_high: the end itself is excluded."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __str__(self) -> str:
        low = "" if self.low == -math.inf else f"{'more than' if self.open_low else 'at least'} {self.low:g}"
        high = "" if self.high == math.inf else f"{'less than' if self.open_high else 'at most'} {self.high:g}"
        return " and ".join(part for part in (low, high) if part) or "finite"

    def __contains__(self, number: float) -> bool:
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return math.isfinite(number) and above and below


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, 1, open_high=True)]


@dataclass(frozen=True)
class Resumable:
    """Mark of an option that may change when a run is resumed. unless: an option that forbids it if it is not 0."""

    unless: str | None = None


RESUMABLE = Resumable()


def check_ranges(values: Mapping[str, Any], hints: Mapping[str, Any], prefix: str = "") -> None:
    """Raise UserError for the first value outside the range of its type.

    hints: annotations by name, as from `typing.get_type_hints(..., include_extras=True)`. None is inside every range.
    prefix: what stands before the names in the message, as in "network.".
    """
    for name, value in values.items():
        if name in hints:
            _check(f"{prefix}{name}", value, hints[name], value)


def _check(option: str, value: Any, hint: Any, whole: Any) -> None:
    if isinstance(value, (tuple, list)):
        parts = _parts(hint)
        for index, part in enumerate(value):
            _check(option, part, parts[0] if Ellipsis in parts else parts[index] if index < len(parts) else Any, whole)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    for allowed in _ranges(hint) or [Range()]:
        if value not in allowed:
            shown = " ".join(map(str, whole)) if isinstance(whole, (tuple, list)) else whole
            raise UserError(f"`{option}` {shown}: must be {allowed if math.isfinite(value) else 'finite'}")


def _ranges(hint: Any) -> list[Range]:
    """Return the ranges of a type, also of one of several in a union."""
    found = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range)]
    inner = [part for part in get_args(hint) if not isinstance(part, Range)]
    return found + [allowed for part in inner for allowed in _ranges(part)] if get_origin(hint) is not tuple else []


def _parts(hint: Any) -> tuple[Any, ...]:
    """Return the types of a tuple's elements, also of a tuple in a union."""
    for candidate in (hint, *get_args(hint)):
        if get_origin(candidate) is tuple:
            return get_args(candidate)
    return ()
