"""The one exception a person is meant to read."""


class ZvlError(ValueError):
    """Something the user can mend: one line that says what is wrong and what to do."""
