"""The one exception for mistakes of the user, in the library and in the data sets alike."""

from __future__ import annotations

import re
from collections.abc import Callable

_OPTION = re.compile(r"`([a-z_.]+)")


class UserError(Exception):
    """A mistake that the user can mend, said in one line: what is wrong with the value, then the ways out.

    message, ways_out: options stand in backticks with their values, as in "`steps` 0: must be at least 1" and
    "`prediction v`". The library knows options by the names of its arguments. `scripts` spells them as flags, and
    leaves out a way out whose option the task does not have.
    """

    def __init__(self, message: str, *ways_out: str) -> None:
        super().__init__(message, *ways_out)
        self.message, self.ways_out = message, ways_out

    @property
    def option(self) -> str | None:
        """The option that the message is about: the first in backticks, if any."""
        found = _OPTION.search(self.message)
        return found[1] if found else None

    def text(self, spell: Callable[[str], str | None] = lambda option: option) -> str:
        """One line. spell: how an option is called here, None where there is none of that name."""
        possible = [way for way in self.ways_out if all(spell(option) for option in _OPTION.findall(way))]
        line = f"{self.message}; {' or '.join(possible)}" if possible else self.message
        return _OPTION.sub(lambda match: spell(match[1]) or match[1], line).replace("`", "")

    def __str__(self) -> str:
        return self.text()
