"""Images as they stand in requests."""

import base64
import binascii
from typing import Any

import numpy as np

from export.serving.request_error import RequestError


def read_base64(text: Any, where: str) -> bytes:
    """Returns the contents of an image file that are written in base 64.

    Args:
        text: what was received.
        where: how a client finds it, such as `"instances[3]"`.

    Raises:
        RequestError: If it is no such text.
    """
    if isinstance(text, str):
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise RequestError(
        400,
        f"{where} must be the contents of an image file in base 64. "
        f"Received: {shorten(text)}",
    )


def read_pixels(
    values: Any, channels: int, max_pixels: int, where: str
) -> np.ndarray:
    """Returns the pixels of an image, float32 `(height, width, channels)`.

    Args:
        values: what was received: lists in lists, or an array.
        channels: number that the model takes.
        max_pixels: of an image.
        where: how a client finds it, such as `"instances[3]"`.

    Raises:
        RequestError: If it is no such image.
    """
    try:
        pixels = np.asarray(values)
    # Rows of several lengths.
    except ValueError:
        pixels = np.empty(0, object)
    is_image = (
        pixels.dtype.kind in "iuf"
        and pixels.ndim == 3
        and pixels.shape[2] == channels
        and pixels.size
    )
    if is_image:
        # What float32 does not reach is infinite.
        with np.errstate(over="ignore"):
            pixels = pixels.astype("float32")
    if not is_image or not np.isfinite(pixels).all():
        raise RequestError(
            400,
            f"{where} must be numbers of shape (height, width, {channels}). "
            f"Received: {shorten(values)}",
        )
    if pixels.shape[0] * pixels.shape[1] > max_pixels:
        raise RequestError(413, f"{where} has more than {max_pixels} pixels.")
    return pixels


def shorten(value: Any) -> str:
    """Returns a value, or how it begins, on one line of ASCII."""
    text = ascii(value[:20] if isinstance(value, str | list) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
