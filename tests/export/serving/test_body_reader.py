import asyncio
import contextlib

import pytest

from export.serving.body_reader import BodyReader
from export.serving.limits import Limits
from export.serving.request_error import RequestError

# Of which eight may be in memory.
LIMITS = Limits(
    max_batch_size=1,
    max_queue=1,
    max_body_bytes=10,
    max_pixels=1,
    body_seconds=0.05,
)


class Request:
    """Brings its body in chunks, and at last waits if it must."""

    def __init__(self, *chunks, waits=False):
        self.headers = {}
        self._chunks = chunks
        self._waits = waits

    async def stream(self):
        for chunk in self._chunks:
            yield chunk
        if self._waits:
            await asyncio.sleep(60)


async def read_status(reader, request):
    try:
        async with reader.read(request) as body:
            return bytes(body)
    except RequestError as error:
        return error.status


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (Request(b"x" * 11), 413),
        (Request(b"x" * 9, b"x" * 2), 413),
        (Request(b"x", waits=True), 408),
    ],
)
def test_refused_bodies_are_forgotten(request_, status):
    async def read():
        reader = BodyReader(LIMITS)
        # More often than would find room.
        for _ in range(20):
            assert await read_status(reader, request_) == status
        async with contextlib.AsyncExitStack() as others:
            for _ in range(8):
                body = await others.enter_async_context(
                    reader.read(Request(b"x" * 10))
                )
                assert body == b"x" * 10
            more = Request(b"1", b"2")
            assert await read_status(reader, more) == 503
        assert await read_status(reader, more) == b"12"

    asyncio.run(read())
