"""Batches of images in which each pixel is the label."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.data import augmentation
from trainers.data import input_pipeline
from trainers.data.image_dataset import Split


def make_split(size):
    """Returns images of 8x8 pixels in which each pixel is the label."""
    labels = np.arange(size)
    images = np.zeros((size, 8, 8, 1), np.uint8)
    images += labels[:, None, None, None].astype(np.uint8)
    return Split(
        tf.data.Dataset.from_tensor_slices((images, labels)),
        size=size,
        shuffle_buffer=size,
        load=tf.identity,
    )


def make_training_batches(size, **changes):
    arguments = {
        "num_classes": size,
        "image_size": 8,
        "batch_size": 5,
        "augment": augmentation.jitter,
        "seed": 0,
        "epochs": 3,
    }
    batches = input_pipeline.make_training_batches(
        make_split(size), **{**arguments, **changes}
    )
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.stack(images), np.stack(labels).argmax(axis=-1)


def test_training_batches_depend_on_seed_and_epoch_alone():
    images, labels = make_training_batches(13)
    again, labels_again = make_training_batches(13)
    others, other_labels = make_training_batches(13, seed=1)

    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert (labels[:2] != labels[2:4]).any()
    assert (labels != other_labels).any()
    assert (images != others).any()


def test_training_batches_of_an_epoch_repeat_no_example():
    _, labels = make_training_batches(13)
    for epoch_labels in labels.reshape(3, 10):
        assert len(set(epoch_labels)) == 10


def test_resumed_training_batches_are_the_last_of_all():
    images, labels = make_training_batches(13)
    last_images, last_labels = make_training_batches(13, initial_epoch=2)
    np.testing.assert_array_equal(last_images, images[4:])
    np.testing.assert_array_equal(last_labels, labels[4:])
    last_images, last_labels = make_training_batches(
        13, initial_epoch=1, initial_step=1
    )
    np.testing.assert_array_equal(last_images, images[3:])
    np.testing.assert_array_equal(last_labels, labels[3:])


def test_training_images_keep_their_labels():
    images, labels = make_training_batches(13)
    # The middle of an image stays in it, whatever the jitter.
    np.testing.assert_allclose(images[:, :, 4, 4, 0], labels, rtol=1e-5)


@pytest.mark.parametrize("size", [10, 13], ids=["whole", "filled"])
def test_evaluation_counts_each_example_once(size):
    batches = input_pipeline.make_evaluation_batches(
        make_split(size),
        num_classes=size,
        image_size=8,
        batch_size=5,
        crop_fraction=1.0,
    )
    images, labels, weights = (
        np.concatenate(parts)
        for parts in zip(*batches.as_numpy_iterator(), strict=True)
    )
    assert len(images) % 5 == 0
    np.testing.assert_array_equal(images[:size, 0, 0, 0], np.arange(size))
    np.testing.assert_array_equal(labels[:size], np.eye(size))
    assert (weights > 0).sum() == size
    assert not weights[size:].any()

    # What Keras makes of them is the mean over the examples.
    model = keras.Sequential([keras.layers.Flatten()])
    model.compile(loss=keras.losses.MeanSquaredError())
    targets = batches.map(
        lambda image, label, weight: (image, tf.zeros((5, 64)), weight)
    )
    loss = model.evaluate(targets, verbose=0)
    np.testing.assert_allclose(loss, np.mean(np.arange(size) ** 2), rtol=1e-5)
