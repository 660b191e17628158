"""The one exception that means the user can mend it: said in one line, without a traceback."""


class UserError(Exception):
    """A wrong value of the user's. The message is one line that names the value, the place and the way out."""
