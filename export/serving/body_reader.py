"""Reads the bodies of requests within limits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import Request

from export.serving.limits import Limits
from export.serving.request_error import RequestError
from export.serving.request_error import make_overload_error

# Bytes that are read of a body that is refused.
_MOST_DISCARDED = 2**28


class BodyReader:
    """Reads bodies, as long as not too much of them is in memory.

    Args:
        limits: how much may be taken at once.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self._bytes_in_memory = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytearray]:
        """Returns a body, which counts as being in memory within the block.

        Raises:
            ClientDisconnect: If the client has hung up.
            RequestError: 408 if it does not come in time, 413 if it is too
                large, 503 if there are too many others.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds) as timeout:
                await self._receive(request, body)
        except TimeoutError as error:
            self._release(body)
            if not timeout.expired():
                raise
            raise RequestError(
                408,
                f"The body must come in {self._limits.body_seconds:g} seconds.",
            ) from error
        except BaseException:
            self._release(body)
            raise
        try:
            yield body
        finally:
            self._release(body)

    async def _receive(self, request, body):
        limits = self._limits
        too_large = RequestError(
            413, f"The body must have at most {limits.max_body_bytes} bytes."
        )
        # Who asks before sending is told before.
        if "expect" in request.headers:
            declared = request.headers.get("content-length", "")
            if declared.isdecimal() and int(declared) > limits.max_body_bytes:
                raise too_large
        refusal, size = None, 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limits.max_body_bytes:
                refusal = too_large
            elif self._bytes_in_memory > limits.max_bytes_in_memory:
                refusal = refusal or make_overload_error()
            if refusal is None:
                body += chunk
                self._bytes_in_memory += len(chunk)
            else:
                # Few clients hear an answer before they have sent all.
                self._release(body)
            if size > _MOST_DISCARDED:
                break
        if refusal:
            raise refusal

    def _release(self, body):
        self._bytes_in_memory -= len(body)
        body.clear()
