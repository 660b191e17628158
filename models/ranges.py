"""Ranges of options as part of their types, checked before anything is computed.

An option's annotation states its range: `width: PositiveInt = 32`, `position: Literal["rope", "learned"] = "rope"`.
Every number must be finite. The annotation also states whether the option may change when a run is resumed:
`epochs: Annotated[Positive, RESUMABLE]`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from models.errors import UserError


@dataclass(frozen=True)
class Range:
    """Interval of numbers from `low` to `high`. open_low excludes `low`, open_high excludes `high`."""

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
    """Mark of an option that may change when a run is resumed. unless: an option that must be 0 for such a change."""

    unless: str | None = None


RESUMABLE = Resumable()


def check_ranges(values: Mapping[str, Any], hints: Mapping[str, Any], prefix: str = "") -> None:
    """Raise UserError for the first value outside the range or the Literal of its type. None is always valid.

    hints: annotations by name, from `get_type_hints(..., include_extras=True)`. prefix: precedes the names in messages.
    """
    for name, value in values.items():
        if name in hints:
            _check(f"{prefix}{name}", value, hints[name], value)


def _check(option: str, value: Any, hint: Any, whole: Any) -> None:
    if isinstance(value, (tuple, list)):
        parts = _parts(hint)
        for index, part in enumerate(value):
            _check(option, part, parts[0] if Ellipsis in parts else parts[index] if index < len(parts) else Any, whole)
        return
    choices = next((get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal), None)
    if choices is not None and value is not None and value not in choices:
        raise UserError(f"`{option}` {value}: must be one of {', '.join(map(str, choices))}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    for allowed in _ranges(hint) or [Range()]:
        if value not in allowed:
            shown = " ".join(map(str, whole)) if isinstance(whole, (tuple, list)) else whole
            raise UserError(f"`{option}` {shown}: must be {allowed if math.isfinite(value) else 'finite'}")


def _ranges(hint: Any) -> list[Range]:
    """Return the ranges of a type or of the members of a union. Ranges of tuple elements are not returned."""
    if get_origin(hint) is tuple:
        return []
    ranges = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range)]
    members = [part for part in get_args(hint) if not isinstance(part, Range)]
    return ranges + [allowed for part in members for allowed in _ranges(part)]


def _parts(hint: Any) -> tuple[Any, ...]:
    """Return the element types of a tuple type, or of the first tuple type in a union."""
    for candidate in (hint, *get_args(hint)):
        if get_origin(candidate) is tuple:
            return get_args(candidate)
    return ()
