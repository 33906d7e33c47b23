"""Batches for training and evaluation.

The order and the augmentation of the training images are decided by the seed,
the epoch and the position in it, so that training which was stopped and goes
on sees the same batches as training which was not.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainers.data.image_dataset import Split
from trainers.data.preprocessing import prepare_image

Augmentation = Callable[[tf.Tensor, int, tf.Tensor], tf.Tensor]


class PseudoLabelled(NamedTuple):
    """What each batch has besides the labelled images.

    Attributes:
        split: what a teacher labelled.
        batch_size: number of its images in a batch.
        augment: as in `make_training_batches`.
        loss_weight: weight of their losses; that of the labelled is 1.
    """

    split: Split
    batch_size: int
    augment: Augmentation
    loss_weight: float = 1.0


def make_training_batches(
    split: Split,
    *,
    num_classes: int,
    image_size: int,
    batch_size: int,
    augment: Augmentation,
    seed: int,
    epochs: int,
    initial_epoch: int = 0,
    initial_step: int = 0,
    mix: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple] | None = None,
    steps_per_epoch: int | None = None,
    pseudo_labelled: PseudoLabelled | None = None,
) -> tf.data.Dataset:
    """Makes the batches of all epochs from a step of `initial_epoch` on.

    Args:
        split: what to train on.
        num_classes: number of classes.
        image_size: height and width of the images in pixels.
        batch_size: examples of `split` in a batch. Of a pass through it, the
            examples that fill no batch are left out, others each time.
        augment: function `(image, image_size, key)` to a float32 image.
        seed: int.
        epochs: number of epochs, those before `initial_epoch` included.
        initial_epoch: the first epoch, from 0.
        initial_step: the first batch in it, from 0.
        mix: function `(images, labels, key)` of a batch to other images and
            labels, such as `mixing.mix_batch`. Labelled images are mixed with
            labelled ones, and pseudo-labelled with pseudo-labelled ones.
        steps_per_epoch: batches in an epoch. Passes go on over the ends of
            epochs. `None` for those of one pass.
        pseudo_labelled: images that each batch has besides. Their passes, in
            an order of their own, leave no example out. In a batch they are
            spread evenly among the others, so that devices get their shares.

    Returns:
        Dataset of `(images, labels)`: float32 `(batch_size, image_size,
        image_size, channels)`, 0 to 255, and float32 `(batch_size,
        num_classes)`, the shares of the classes. `batch_size` includes the
        pseudo-labelled. If their losses have another weight, the third are
        weights, float32 `(batch_size,)`.
    """
    if steps_per_epoch is None:
        steps_per_epoch = split.size // batch_size
    steps = range(
        initial_epoch * steps_per_epoch + initial_step, epochs * steps_per_epoch
    )
    make_stream = functools.partial(
        _make_stream,
        steps=steps,
        num_classes=num_classes,
        image_size=image_size,
        mix=mix,
    )
    batches = make_stream(
        split,
        batch_size,
        augment,
        seed=(seed, 0),
        pass_size=split.size // batch_size * batch_size,
    )
    if pseudo_labelled is not None:
        others = make_stream(
            pseudo_labelled.split,
            pseudo_labelled.batch_size,
            pseudo_labelled.augment,
            # The order and the keys are others.
            seed=(seed, 1),
            pass_size=pseudo_labelled.split.size,
        )
        batches = tf.data.Dataset.zip(batches, others).map(
            _make_merger(batch_size, pseudo_labelled),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    return batches.prefetch(tf.data.AUTOTUNE).with_options(
        _share_among_workers()
    )


def _make_stream(
    split,
    batch_size,
    augment,
    *,
    seed,
    pass_size,
    steps,
    num_classes,
    image_size,
    mix,
):
    """Makes the batches of some steps of endless passes through a split.

    Args:
        split, batch_size, augment, num_classes, image_size, mix: as in
            `make_training_batches`.
        seed: two ints.
        pass_size: examples in a pass.
        steps: range of the numbers of the batches, from the first of the run.
    """
    first_pass, skipped = divmod(steps.start * batch_size, pass_size)
    end_pass = -(-steps.stop * batch_size // pass_size)

    def shuffle_pass(number):
        # Of this function's graph alone. `shuffle` cannot combine a seed that
        # is a tensor with a global seed of 0.
        tf.random.set_seed(1)
        key = tf.random.experimental.stateless_fold_in(seed, number)
        examples = split.reorder(key) if split.reorder else split.examples
        examples = examples.shuffle(
            split.shuffle_buffer,
            seed=tf.random.stateless_uniform(
                (), key, maxval=2**31, dtype=tf.int64
            ),
            reshuffle_each_iteration=False,
        )
        keys = tf.data.Dataset.range(pass_size).map(
            lambda index: tf.random.experimental.stateless_fold_in(key, index)
        )
        # Images are read later, so skipping takes little time.
        return tf.data.Dataset.zip(keys, examples).skip(
            tf.where(number == first_pass, tf.constant(skipped, tf.int64), 0)
        )

    def prepare(key, example):
        stored_image, label = example
        image = augment(split.load(stored_image), image_size, key)
        if not label.dtype.is_floating:
            label = tf.one_hot(label, num_classes)
        return image, label, key

    def prepare_batch(images, labels, keys):
        if mix is None:
            return images, labels
        # Augmentation draws from the first five.
        key = tf.random.experimental.stateless_fold_in(keys[0], 5)
        return mix(images, labels, key)

    return (
        tf.data.Dataset.range(first_pass, end_pass)
        .flat_map(shuffle_pass)
        .map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .map(prepare_batch, num_parallel_calls=tf.data.AUTOTUNE)
        .take(len(steps))
    )


def _make_merger(num_labelled, pseudo_labelled):
    """Returns a function of two batches to one, and weights if need be."""
    num_others = pseudo_labelled.batch_size
    # Whatever number divides both divides the batch into equal shares.
    fractions = [(np.arange(n) + 0.5) / n for n in (num_labelled, num_others)]
    order = np.argsort(np.concatenate(fractions), kind="stable")
    places = np.split(np.argsort(order).astype(np.int32), [num_labelled])
    weights = np.repeat(
        np.float32([1, pseudo_labelled.loss_weight]), [num_labelled, num_others]
    )[order]

    def merge(labelled, others):
        merged = tuple(
            tf.dynamic_stitch(places, pair)
            for pair in zip(labelled, others, strict=True)
        )
        if pseudo_labelled.loss_weight == 1:
            return merged
        return (*merged, tf.constant(weights))

    return merge


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
        # Of records it is unknown, and Keras would warn at their end.
        .apply(
            tf.data.experimental.assert_cardinality(
                (split.size + filling) // batch_size
            )
        )
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
