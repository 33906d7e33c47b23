"""A model in memory that classifies what several clients send."""

import asyncio
import concurrent.futures
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from export.command_line import InputError
from export.exported_model import open_model
from export.preprocessing import TooManyPixels
from export.preprocessing import decode_image
from export.preprocessing import prepare_image
from export.serving.batcher import Batcher
from export.serving.limits import Limits
from export.serving.metrics import Metrics


class Outcome(NamedTuple):
    """What came of an image.

    Attributes:
        probabilities: float32, `(classes,)`; NaN if it is in error.
        error: what is wrong with the image, or `""`.
        status: HTTP's status code for it.
    """

    probabilities: np.ndarray
    error: str = ""
    status: int = 200


class ServedModel:
    """One version of a model.

    Args:
        path: SavedModel folder, .tflite or .onnx file of an export.
        version: its number.
        limits: how much may be taken at once.
        decoders: threads that decode images.
        slots: a semaphore of as many images as may be in memory.
        metrics: where to note what is done.

    Attributes:
        version: as above.
        metadata: what `Classifier.describe` said of it.
        format: its `export.formats.Format`.

    Raises:
        InputError: If there is no such model, it is damaged, or a package is
            missing.
    """

    def __init__(
        self,
        path: pathlib.Path,
        version: int,
        *,
        limits: Limits,
        decoders: concurrent.futures.Executor,
        slots: asyncio.Semaphore,
        metrics: Metrics,
    ):
        opened = open_model(path)
        if "prepared" not in opened.runs:
            raise InputError(
                "--model must have the signature prepared, which SavedModels "
                "of earlier versions lack; export it again. "
                f"Received: {path}"
            )
        self.version = version
        self.metadata = opened.metadata
        self.format = opened.format
        self._limits = limits
        self._decoders = decoders
        self._slots = slots
        self._metrics = metrics
        self._batcher = Batcher(
            opened.runs["prepared"],
            max_batch_size=limits.max_batch_size,
            is_padded=opened.format.runs_batches,
            observe=metrics.observe_batch,
        )
        size, channels = self.metadata["image_size"], self.metadata["channels"]
        self._batcher.warm_up((size, size, channels))

    async def classify(
        self, images: Sequence[bytes | np.ndarray]
    ) -> list[Outcome]:
        """Classifies images, in whatever batches.

        Args:
            images: each is the contents of an image file, or pixels from 0 to
                255, `(height, width, channels)`.
        """
        # So one request leaves room for others, however many images it has.
        window = asyncio.Semaphore(2 * self._limits.max_batch_size)

        async def classify_one(image):
            async with window, self._slots:
                with self._metrics.waiting_images.track_inprogress():
                    outcome = await self._classify(image)
            kind = "refused" if outcome.error else "classified"
            self._metrics.images.labels(kind).inc()
            return outcome

        return await asyncio.gather(*map(classify_one, images))

    async def _classify(self, image):
        loop = asyncio.get_running_loop()
        try:
            prepared = await loop.run_in_executor(
                self._decoders, self._prepare, image
            )
        except ValueError as error:
            is_large = isinstance(error, TooManyPixels)
            return self._refuse(str(error), 413 if is_large else 400)
        probabilities = await self._batcher.run(prepared)
        if not np.isfinite(probabilities).all():
            return self._refuse(
                "makes the model return what is no probability", 400
            )
        return Outcome(probabilities)

    def _prepare(self, image):
        if isinstance(image, bytes):
            image = decode_image(
                image, self.metadata["channels"], self._limits.max_pixels
            )
        return prepare_image(
            image, self.metadata["image_size"], self.metadata["crop_fraction"]
        )

    def _refuse(self, error, status):
        num_classes = len(self.metadata["class_names"])
        return Outcome(np.full(num_classes, np.nan, "float32"), error, status)
