"""Exception for mistakes of the user, raised in data, models and scripts."""

import difflib
import re
from collections.abc import Callable, Iterable

_OPTION = re.compile(r"`([a-z_.]+)")


class UserError(Exception):
    """Mistake that the user can correct, described in one line: what is wrong with the value, then the ways out.

    message, ways_out: options are in backticks, as in "`steps` 0: must be at least 1" and "use `prediction v`". An
    option has the name of the library's argument. `scripts` replaces this name by the command-line flag, and drops a
    way out that names a flag which the task does not have.
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
        """Return message and ways out as one line. spell: returns an option's flag, or None if the task lacks it."""
        possible = [way for way in self.ways_out if all(spell(option) for option in _OPTION.findall(way))]
        line = f"{self.message}; {' or '.join(possible)}" if possible else self.message
        return _OPTION.sub(lambda match: spell(match[1]) or match[1], line).replace("`", "")

    def __str__(self) -> str:
        return self.text()


def suggestion(word: str, names: Iterable[str]) -> str:
    """Return "; did you mean NAME?" for the name that is closest to a word, or "" if none is close. Ignores case."""
    by_lower = {name.casefold(): name for name in reversed(list(names))}
    close = difflib.get_close_matches(word.casefold(), by_lower, 1)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""
