"""Events for TensorBoard, each step once however often a run is resumed."""

import os

import keras
import tensorflow as tf

from trainers.files import make_path
from trainers.files import replacing
from trainers.progress import StepClock

# Those of training, which states know; others have folders of their own.
_TRAINING_FOLDERS = ("train", "validation")


class EventLog(keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard` without the graph, which can be flushed.

    Besides losses, metrics and the learning rate, it writes the images per
    second of each epoch.

    Args:
        folder: where the events go.
        profile_steps: the first and the last step that the profiler records,
            from 1. `None` for none.

    Attributes:
        clock: times the steps; set it before `fit`. `None` for no images per
            second.
    """

    def __init__(
        self,
        folder: os.PathLike,
        profile_steps: tuple[int, int] | None = None,
    ):
        super().__init__(
            str(folder), write_graph=False, profile_batch=profile_steps or 0
        )
        self.clock: StepClock | None = None

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self.clock:
            with self._train_writer.as_default():
                tf.summary.scalar(
                    "epoch_images_per_second",
                    self.clock.images_per_second,
                    step=epoch,
                )

    def flush(self) -> None:
        """Writes the events that are still in memory to their files."""
        for writer in self._writers.values():
            writer.flush()


def write_picture(
    folder: os.PathLike, tag: str, picture_file: os.PathLike
) -> None:
    """Writes a PNG file as an event of step 0.

    Args:
        folder: of the events.
        tag: name of the picture.
        picture_file: the file.
    """
    picture = tf.io.decode_png(make_path(picture_file).read_bytes(), channels=3)
    with tf.summary.create_file_writer(str(folder)).as_default():
        tf.summary.image(tag, picture[tf.newaxis], step=0)


def measure_files(folder: os.PathLike) -> dict[str, int]:
    """Returns the size of each file of training's events, by its name."""
    folder = str(folder)
    return {
        os.path.relpath(path, folder): tf.io.gfile.stat(path).length
        for path in _list_files(folder)
    }


def roll_back(folder: os.PathLike, sizes: dict[str, int]) -> None:
    """Makes training's files of events as long as they were, or removes them.

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


def remove_files(folder: os.PathLike) -> None:
    """Removes the files of events in a folder, if there are any."""
    for path in _walk(str(folder)):
        tf.io.gfile.remove(path)


def _list_files(folder):
    return [
        path
        for name in _TRAINING_FOLDERS
        for path in _walk(tf.io.gfile.join(folder, name))
    ]


def _walk(folder):
    return [
        tf.io.gfile.join(parent, name)
        for parent, _, names in tf.io.gfile.walk(folder)
        for name in names
        if ".tfevents." in name and not name.startswith("partial-")
    ]
