"""Decodes the contents of many image files within a graph."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    import tensorflow as tf


def decode_files(
    files: "tf.Tensor", decode: Callable[["tf.Tensor"], Any], blank: Any
) -> tuple[Any, "tf.Tensor"]:
    """Decodes files, of which a bad one costs the others nothing.

    Args:
        files: strings, `(files,)`, the contents of each.
        decode: function of the contents of one, which returns tensors in some
            structure, of the same shapes for every file.
        blank: tensors in this structure, of these shapes and dtypes.

    Returns:
        The structure, its tensors with an axis of the files in front, zeros
        for those that cannot be decoded; and bool, `(files,)`, which can be.
    """
    import tensorflow as tf

    num_files = tf.size(files, tf.int64)
    decoded = (
        tf.data.Dataset.from_tensor_slices(files)
        .enumerate()
        .map(
            lambda number, file: (number, decode(file)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        # Only a data set goes on after an operation that failed.
        .ignore_errors()
    )
    # All in one batch, with one more, because there is no empty batch.
    extra = tf.data.Dataset.from_tensors((num_files, blank))
    everything = decoded.concatenate(extra).batch(num_files + 1)
    numbers, tensors = everything.get_single_element()
    indices = numbers[:, tf.newaxis]

    def spread(tensor):
        shape = tf.concat(
            [[num_files + 1], tf.shape(tensor, tf.int64)[1:]], axis=0
        )
        return tf.scatter_nd(indices, tensor, shape)[:-1]

    is_good = spread(tf.ones_like(numbers, tf.bool))
    return tf.nest.map_structure(spread, tensors), is_good
