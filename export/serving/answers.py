"""JSON in requests and answers, of both protocols."""

from collections.abc import Sequence

import orjson
from fastapi import Response

from export.serving.request_error import RequestError
from export.serving.served_model import Outcome

# So many images in error are named.
_MOST_NAMED = 3


def parse_object(body: bytearray) -> dict:
    """Returns the JSON object that a body is.

    Raises:
        RequestError: If it is none.
    """
    try:
        parsed = orjson.loads(body)
    except ValueError as error:
        raise RequestError(
            400, f"The body must be JSON, but {error}."
        ) from error
    if not isinstance(parsed, dict):
        raise RequestError(400, "The body must be a JSON object.")
    return parsed


def make_answer(content: dict, status: int = 200) -> Response:
    """Returns an answer of one line; numbers that are none become null."""
    return Response(
        orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY),
        status,
        media_type="application/json",
    )


def refuse_errors(outcomes: Sequence[Outcome], where: str) -> None:
    """Checks that no image is in error.

    Args:
        outcomes: of the images of a request.
        where: name of the list that they stand in.

    Raises:
        RequestError: If one is; 413 if all that are have too many pixels.
    """
    wrong = [(n, o) for n, o in enumerate(outcomes) if o.error]
    if not wrong:
        return
    errors = [f"{where}[{n}] {o.error}" for n, o in wrong[:_MOST_NAMED]]
    if len(wrong) > _MOST_NAMED:
        errors.append(f"{len(wrong) - _MOST_NAMED} more are wrong")
    raise RequestError(
        min(outcome.status for _, outcome in wrong), f"{'; '.join(errors)}."
    )
