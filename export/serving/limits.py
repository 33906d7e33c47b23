"""How much a server takes at once."""

from typing import NamedTuple


class Limits(NamedTuple):
    """How much a server takes at once.

    Attributes:
        max_batch_size: images that the model computes at once.
        max_queue: images that are decoded or wait for the model; while there
            are as many, other requests are refused.
        max_body_bytes: size of a request's body.
        max_pixels: of an image.
        body_seconds: in which a request's body must come.
    """

    max_batch_size: int
    max_queue: int
    max_body_bytes: int
    max_pixels: int
    body_seconds: float

    @property
    def max_bytes_in_memory(self) -> int:
        """Bytes of bodies of all requests that are read or computed."""
        return 8 * self.max_body_bytes
