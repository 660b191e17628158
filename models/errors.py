"""The exception for mistakes of the user, in the library and in the data sets."""

import re
from collections.abc import Callable

_OPTION = re.compile(r"`([a-z_.]+)")


class UserError(Exception):
    """A mistake that the user can mend, described in one line: what is wrong with the value, then the ways out.

    message, ways_out: options are in backticks, as in "`steps` 0: must be at least 1" and "use `prediction v`". They
    have the names of the library's arguments. `scripts` spells them as flags, and drops a way out whose option the task
    does not have.
    """

    def __init__(self, message: str, *ways_out: str) -> None:
        super().__init__(message, *ways_out)
        self.message, self.ways_out = message, ways_out

    @property
    def option(self) -> str | None:
        """The first option in backticks in the message, if any."""
        match = _OPTION.search(self.message)
        return match[1] if match else None

    def text(self, spell: Callable[[str], str | None] = lambda option: option) -> str:
        """Return the one line. spell: returns the spelling of an option, None if the task does not have it."""
        possible = [way for way in self.ways_out if all(spell(option) for option in _OPTION.findall(way))]
        line = f"{self.message}; {' or '.join(possible)}" if possible else self.message
        return _OPTION.sub(lambda match: spell(match[1]) or match[1], line).replace("`", "")

    def __str__(self) -> str:
        return self.text()
