"""Batches for training and evaluation.

The order and the augmentation of the training images are decided by the seed,
the epoch and the position in it, so that training which was stopped and goes
on sees the same batches as training which was not.
"""

from collections.abc import Callable

import tensorflow as tf

from trainers.data.image_dataset import Split
from trainers.data.preprocessing import prepare_image


def make_training_batches(
    split: Split,
    *,
    num_classes: int,
    image_size: int,
    batch_size: int,
    augment: Callable[[tf.Tensor, int, tf.Tensor], tf.Tensor],
    seed: int,
    epochs: int,
    initial_epoch: int = 0,
    initial_step: int = 0,
    mix: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple] | None = None,
) -> tf.data.Dataset:
    """Makes the batches of all epochs from a step of `initial_epoch` on.

    Args:
        split: what to train on.
        num_classes: number of classes.
        image_size: height and width of the images in pixels.
        batch_size: examples in a batch. Of an epoch, the examples that fill
            no batch are left out, others each time.
        augment: function `(image, image_size, key)` to a float32 image.
        seed: int.
        epochs: number of epochs, those before `initial_epoch` included.
        initial_epoch: the first epoch, from 0.
        initial_step: the first batch in it, from 0.
        mix: function `(images, labels, key)` of a batch to other images and
            labels, such as `mixing.mix_batch`.

    Returns:
        Dataset of `(images, one_hot_labels)`: float32 `(batch_size,
        image_size, image_size, channels)`, 0 to 255, and float32
        `(batch_size, num_classes)`; `split.size // batch_size` per epoch,
        in the first one `initial_step` fewer.
    """
    examples_used = split.size // batch_size * batch_size

    def shuffle_epoch(epoch):
        # Of this function's graph alone. `shuffle` cannot combine a seed that
        # is a tensor with a global seed of 0.
        tf.random.set_seed(1)
        key = tf.random.experimental.stateless_fold_in((seed, 0), epoch)
        examples = split.reorder(key) if split.reorder else split.examples
        examples = examples.shuffle(
            split.shuffle_buffer,
            seed=tf.random.stateless_uniform(
                (), key, maxval=2**31, dtype=tf.int64
            ),
            reshuffle_each_iteration=False,
        )
        keys = tf.data.Dataset.range(examples_used).map(
            lambda index: tf.random.experimental.stateless_fold_in(key, index)
        )
        skipped = tf.where(epoch == initial_epoch, initial_step * batch_size, 0)
        # Images are read later, so skipping takes little time.
        return tf.data.Dataset.zip(keys, examples).skip(
            tf.cast(skipped, tf.int64)
        )

    def prepare(key, example):
        stored_image, label = example
        image = augment(split.load(stored_image), image_size, key)
        return image, tf.one_hot(label, num_classes), key

    def prepare_batch(images, labels, keys):
        if mix is None:
            return images, labels
        # Augmentation draws from the first five.
        key = tf.random.experimental.stateless_fold_in(keys[0], 5)
        return mix(images, labels, key)

    return (
        tf.data.Dataset.range(initial_epoch, epochs)
        .flat_map(shuffle_epoch)
        .map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .map(prepare_batch, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(_share_among_workers())
    )


def make_evaluation_batches(
    split: Split,
    *,
    num_classes: int,
    image_size: int,
    batch_size: int,
    crop_fraction: float,
) -> tf.data.Dataset:
    """Makes batches of one size in which each example counts once.

    Devices that share a batch each need a part of it, and some need its size
    in advance, so the last batch is filled up with images of weight 0.

    Args:
        split: what to evaluate on.
        num_classes: number of classes.
        image_size: height and width of the images in pixels.
        batch_size: examples in a batch.
        crop_fraction: share of the shorter side that the central crop keeps.

    Returns:
        Dataset of `(images, one_hot_labels, weights)`, in the order of the
        split and then the filling. The weights are such that their mean is 1:
        the mean that Keras takes of the weighted losses over all entries is
        that over the examples.
    """
    filling = -split.size % batch_size
    weight = (split.size + filling) / split.size

    def prepare(stored_image, label):
        image = prepare_image(
            split.load(stored_image), image_size, crop_fraction
        )
        return image, tf.one_hot(label, num_classes), tf.constant(weight)

    examples = split.examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    blank = tf.data.Dataset.from_tensors(
        tuple(tf.zeros(spec.shape) for spec in examples.element_spec)
    )
    return (
        examples.concatenate(blank.repeat(filling))
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(_share_among_workers())
    )


def _share_among_workers():
    """Several workers each take their part of every batch.

    By default each would read files of its own, if there are enough: other
    batches than those of one worker.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return options
