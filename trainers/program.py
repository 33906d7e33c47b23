"""The one exception that programs show to their users without a traceback."""


class UserError(Exception):
    """What the user can mend; its message, one line, is all they see."""
