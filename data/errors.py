"""The one exception of `data`: something that the user can put right; `scripts` prints it, exit code 2."""


class DataError(Exception):
    """A mistake in the data or in the options of a data set.

    The message is one line: the value that is wrong, where it stands, and the way out.
    """
