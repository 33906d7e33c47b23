"""Why a request is refused."""


class RequestError(Exception):
    """A request is refused.

    Args:
        status: HTTP's status code.
        message: one line, the rule and what was received.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.message = message


def make_overload_error() -> RequestError:
    """Returns what is said while too much waits."""
    return RequestError(503, "Too many images wait. Ask again later.")
