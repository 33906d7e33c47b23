"""Functions of a key, called with many keys."""

import numpy as np
import tensorflow as tf


def call_with_keys(function, numbers):
    """Returns what `function(key)` gives for the keys of numbers, stacked.

    The function runs in a graph of tf.data, as in training.
    """
    dataset = tf.data.Dataset.from_tensor_slices(list(numbers)).map(
        lambda number: function(make_key(number)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    results = next(iter(dataset.batch(len(numbers))))
    return tf.nest.map_structure(lambda values: values.numpy(), results)


def make_key(number):
    return tf.random.experimental.stateless_fold_in(
        (3, 7), tf.cast(number, tf.int32)
    )


def make_image(height=29, width=23, channels=3):
    """Returns a uint8 image whose neighbors are alike, and of all levels."""
    rows, columns = np.mgrid[:height, :width]
    waves = [
        np.sin(rows / (3 + channel)) + np.cos(columns / (2 + channel))
        for channel in range(channels)
    ]
    noise = np.random.default_rng(0).normal(0, 0.2, (height, width, channels))
    image = np.stack(waves, -1) + noise
    image = (image - image.min()) / np.ptp(image)
    return tf.constant(np.round(255 * image), tf.uint8)
