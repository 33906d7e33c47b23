"""Keeps decoded images in memory."""

import dataclasses

import numpy as np
import tensorflow as tf

from trainers import memory
from trainers.data.image_dataset import ImageDataset
from trainers.data.image_dataset import Split
from trainers.program import UserError

# Images are put together once they are all there, which takes twice their
# size; the network and its batches need memory too.
_LARGEST_SHARE = 1 / 3


def cache_images(dataset: ImageDataset) -> ImageDataset:
    """Decodes all images and keeps them in memory, a byte for each value.

    The order of the examples stays as it was, but for splits that do not fit
    their shuffle buffer: in memory they are shuffled as a whole.

    Raises:
        UserError: If they take more than a third of the machine's memory.
    """
    most_bytes = int(memory.measure_machine() * _LARGEST_SHARE)
    train, train_bytes = _cache_split(dataset.train, most_bytes)
    validation, validation_bytes = _cache_split(
        dataset.validation, most_bytes - train_bytes
    )
    total = train_bytes + validation_bytes
    pseudo_labelled = dataset.pseudo_labelled
    if pseudo_labelled:
        pseudo_labelled, pseudo_bytes = _cache_split(
            pseudo_labelled, most_bytes - total
        )
        total += pseudo_bytes
    print(f"Images in memory: {total / 2**20:.1f} MiB.")
    return dataclasses.replace(
        dataset,
        train=train,
        validation=validation,
        pseudo_labelled=pseudo_labelled,
    )


def _cache_split(split, most_bytes):
    images = []
    shapes = []
    labels = []
    total_bytes = 0
    loaded = split.examples.map(
        lambda stored_image, label: (split.load(stored_image), label),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    for image, label in loaded.as_numpy_iterator():
        total_bytes += image.size
        if total_bytes > most_bytes:
            raise UserError(
                f"--cache needs more than {_LARGEST_SHARE:.0%} of the memory, "
                f"for {len(images)} of {split.size} images; leave it out."
            )
        images.append(image.reshape(-1))
        shapes.append(image.shape)
        labels.append(label)
    return _split_memory(images, shapes, labels), total_bytes


def _split_memory(images, shapes, labels):
    ends = np.cumsum([image.size for image in images])
    channels = shapes[0][-1]
    with tf.device("CPU"):
        pixels = tf.concat(images, axis=0)
        shapes = tf.constant(shapes, tf.int64)
        begins = tf.constant([0, *ends[:-1]], tf.int64)

    def load(position):
        # Slices of one tensor: a tensor for each image would be copied to
        # and from the shuffle buffer.
        shape = shapes[position]
        image = tf.slice(
            pixels, begins[position][None], tf.reduce_prod(shape)[None]
        )
        return tf.ensure_shape(tf.reshape(image, shape), (None, None, channels))

    return Split(
        tf.data.Dataset.from_tensor_slices(
            (np.arange(len(labels)), np.stack(labels))
        ),
        size=len(labels),
        shuffle_buffer=len(labels),
        load=load,
    )
