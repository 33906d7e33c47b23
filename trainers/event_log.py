"""Events for TensorBoard, each step once however often a run is resumed."""

import os

import keras
import tensorflow as tf

from trainers.files import make_path
from trainers.files import replacing


class EventLog(keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard` without the graph, which can be flushed.

    Args:
        folder: where the events go.
        profile_steps: the first and the last step that the profiler records,
            from 1. `None` for none.
    """

    def __init__(
        self,
        folder: os.PathLike,
        profile_steps: tuple[int, int] | None = None,
    ):
        super().__init__(
            str(folder), write_graph=False, profile_batch=profile_steps or 0
        )

    def flush(self) -> None:
        """Writes the events that are still in memory to their files."""
        for writer in self._writers.values():
            writer.flush()


def measure_files(folder: os.PathLike) -> dict[str, int]:
    """Returns the size of each file of events in bytes, by its name."""
    folder = str(folder)
    return {
        os.path.relpath(path, folder): tf.io.gfile.stat(path).length
        for path in _list_files(folder)
    }


def roll_back(folder: os.PathLike, sizes: dict[str, int]) -> None:
    """Makes the files of events as long as they were; removes later ones.

    Args:
        folder: of the events.
        sizes: what `measure_files` returned.
    """
    folder = str(folder)
    for path in _list_files(folder):
        size = sizes.get(os.path.relpath(path, folder), 0)
        if not size:
            tf.io.gfile.remove(path)
        elif size < tf.io.gfile.stat(path).length:
            contents = make_path(path).read_bytes()[:size]
            with replacing(path) as temporary:
                temporary.write_bytes(contents)


def _list_files(folder):
    return [
        tf.io.gfile.join(parent, name)
        for parent, _, names in tf.io.gfile.walk(folder)
        for name in names
        if ".tfevents." in name and not name.startswith("partial-")
    ]
