"""What the routes of both protocols share."""

import asyncio
import concurrent.futures
import contextlib
import pathlib
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import Request
from starlette.requests import ClientDisconnect

from export.serving.body_reader import BodyReader
from export.serving.limits import Limits
from export.serving.metrics import Metrics
from export.serving.model_watcher import ModelWatcher
from export.serving.request_error import RequestError
from export.serving.request_error import make_overload_error
from export.serving.served_model import Outcome
from export.serving.served_model import ServedModel

# To hand over to a thread what takes less takes longer.
_SMALL_BODY = 2**16


class Service:
    """A model with a name, and all that answers for it.

    Args:
        path: SavedModel folder, .tflite or .onnx file of an export.
        name: of the model in URLs.
        limits: how much may be taken at once.
        num_decoders: number of threads that decode images.

    Attributes:
        name: as above.
        limits: as above.
        metrics: its `Metrics`.
        watcher: holds the model.

    Raises:
        InputError: If there is no such model, it is damaged, or a package is
            missing.
    """

    def __init__(
        self, path: pathlib.Path, name: str, limits: Limits, num_decoders: int
    ):
        self.name = name
        self.limits = limits
        self.metrics = Metrics()
        self._bodies = BodyReader(limits)
        self._slots = asyncio.Semaphore(limits.max_queue)
        self._decoders = concurrent.futures.ThreadPoolExecutor(
            num_decoders, "decoder"
        )
        self.watcher = ModelWatcher(path, self._load, self.metrics)

    def _load(self, path, version):
        return ServedModel(
            path,
            version,
            limits=self.limits,
            decoders=self._decoders,
            slots=self._slots,
            metrics=self.metrics,
        )

    def find_model(self, name: str, version: str | None) -> ServedModel:
        """Returns the model of a URL.

        Args:
            name: of the model.
            version: its number, or `None` for the one that is used.

        Raises:
            RequestError: 404, if there is no such model or version.
        """
        model = self.watcher.current
        if name != self.name:
            raise RequestError(
                404, f"The model must be {self.name}. Received: {name}"
            )
        if version not in (None, str(model.version)):
            raise RequestError(
                404, f"The version must be {model.version}. Received: {version}"
            )
        return model

    async def classify(
        self,
        request: Request,
        model: ServedModel,
        parse: Callable[[bytearray], tuple[Sequence[bytes | np.ndarray], Any]],
    ) -> tuple[list[Outcome], Any]:
        """Reads the body of a request and classifies the images in it.

        Args:
            request: whose body is not read yet.
            model: what classifies.
            parse: function of the body that returns the images and whatever
                the answer depends on.

        Returns:
            An outcome for each image, and the second of what `parse` returned.

        Raises:
            ClientDisconnect: If the client has hung up.
            RequestError: 408 if the body does not come in time, 413 if it is
                too large, 503 while too much waits, and what `parse` raises.
        """
        async with self._bodies.read(request) as body:
            if self._slots.locked():
                raise make_overload_error()
            if len(body) < _SMALL_BODY:
                images, rest = parse(body)
            else:
                loop = asyncio.get_running_loop()
                images, rest = await loop.run_in_executor(
                    self._decoders, parse, body
                )
            async with _cancelling_if_gone(request):
                return await model.classify(images), rest


@contextlib.asynccontextmanager
async def _cancelling_if_gone(request: Request) -> AsyncIterator[None]:
    """Raises `ClientDisconnect` within the block once the client hangs up."""
    task = asyncio.current_task()
    is_gone = False

    async def wait():
        nonlocal is_gone
        # After the body, nothing else comes.
        await request.receive()
        is_gone = True
        task.cancel()

    waiting = asyncio.create_task(wait())
    try:
        yield
    except asyncio.CancelledError:
        if not is_gone:
            raise
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        waiting.cancel()
