"""Serves what lies on disk, also after it was replaced."""

import asyncio
import gc
import logging
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from export.command_line import escape
from export.serving.metrics import Metrics
from export.serving.served_model import ServedModel

_LOGGER = logging.getLogger(__name__)


class FailedVersion(NamedTuple):
    """A model that was found on disk and could not be loaded."""

    version: int
    error: str


class ModelWatcher:
    """Holds the model that lies at a path.

    Once it is replaced there, the new one is loaded beside the old one, which
    answers until then, and takes its place as the next version. If the new one
    is damaged, the old one goes on. So it does if the path is deleted.

    Args:
        path: SavedModel folder, .tflite or .onnx file of an export.
        load: function of a path and a version, `ServedModel`.
        metrics: where to note what is done.

    Attributes:
        current: the `ServedModel` that answers.
        failed: the `FailedVersion` that was found last, if none was loaded
            since, or `None`.

    Raises:
        InputError: If there is no model at first.
    """

    def __init__(
        self,
        path: pathlib.Path,
        load: Callable[[pathlib.Path, int], ServedModel],
        metrics: Metrics,
    ):
        self._path = path
        self._load = load
        self._metrics = metrics
        self._tried = _look_at(path)
        self.failed = None
        self._use(load(path, 1))

    def _use(self, model):
        self.current = model
        self._metrics.model_version.set(model.version)
        # Python would look again and again for cycles in what stays, with
        # TensorFlow for a third of a second.
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    async def watch(self, seconds: float) -> None:
        """Looks at the path from time to time, until it is cancelled.

        Args:
            seconds: from one look to the next.
        """
        previous = self._tried
        while True:
            await asyncio.sleep(seconds)
            found = await asyncio.to_thread(_look_at, self._path)
            # What changes from look to look is still being written.
            if found and found == previous and found != self._tried:
                self._tried = found
                await self._replace()
            previous = found

    async def _replace(self):
        failed_version = self.failed.version if self.failed else 0
        version = max(self.current.version, failed_version) + 1
        try:
            model = await asyncio.to_thread(self._load, self._path, version)
        # Whatever is wrong with it, the one in memory is not.
        except Exception as error:
            self.failed = FailedVersion(version, escape(str(error)))
            self._metrics.failed_replacements.inc()
            _LOGGER.error(
                "Version %d is not used: %s. Version %d goes on.",
                version,
                self.failed.error,
                self.current.version,
            )
        else:
            self.failed = None
            self._use(model)
            _LOGGER.warning("Version %d is used from now on.", version)


def _look_at(path):
    """Returns what changes if a file or what is in a folder is replaced."""
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        return [
            (str(file), status.st_ino, status.st_mtime_ns, status.st_size)
            for file in files
            for status in [os.stat(file)]
        ]
    # It is being replaced.
    except OSError:
        return []
