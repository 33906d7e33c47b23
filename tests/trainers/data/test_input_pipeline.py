"""Batches of images in which each pixel is the label."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.data import augmentation
from trainers.data import input_pipeline
from trainers.data import mixing
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


def make_mixed_batches(size, num_others, loss_weight=1.0, **changes):
    """Returns batches of both kinds, without augmentation.

    The pixels of the pseudo-labelled are 100 and more, and their labels say
    by how much, as the shares of the two ends of the range.
    """
    numbers = np.arange(num_others)
    images = np.full((num_others, 8, 8, 1), 100, np.uint8)
    images += numbers[:, None, None, None].astype(np.uint8)
    labels = np.zeros((num_others, size), np.float32)
    labels[:, 0] = 1 - numbers / num_others
    labels[:, -1] = numbers / num_others
    others = Split(
        tf.data.Dataset.from_tensor_slices((images, labels)),
        size=num_others,
        shuffle_buffer=num_others,
        load=tf.identity,
    )
    arguments = {
        "num_classes": size,
        "image_size": 8,
        "batch_size": 2,
        "augment": keep,
        "seed": 0,
        "epochs": 3,
        "pseudo_labelled": input_pipeline.PseudoLabelled(
            others, 6, keep, loss_weight
        ),
    }
    batches = input_pipeline.make_training_batches(
        make_split(size), **{**arguments, **changes}
    )
    return [
        np.stack(parts)
        for parts in zip(*batches.as_numpy_iterator(), strict=True)
    ]


def keep(image, image_size, key):
    del image_size, key
    return tf.cast(image, tf.float32)


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


def test_order_of_the_images_is_that_of_runs_before():
    _, labels = make_training_batches(13)
    assert labels[:4].tolist() == [
        [6, 7, 12, 10, 9],
        [3, 11, 4, 0, 2],
        [6, 7, 4, 8, 12],
        [5, 3, 9, 10, 11],
    ]


def test_passes_go_on_over_epochs_of_given_lengths():
    # 6 passes of 2 batches.
    images, labels = make_training_batches(13, epochs=6)
    for epoch, step in ((0, 0), (1, 0), (0, 2)):
        others, other_labels = make_training_batches(
            13,
            epochs=4,
            steps_per_epoch=3,
            initial_epoch=epoch,
            initial_step=step,
        )
        done = 3 * epoch + step
        np.testing.assert_array_equal(others, images[done:])
        np.testing.assert_array_equal(other_labels, labels[done:])


def test_each_batch_and_each_half_has_its_share_of_both_kinds():
    images, _ = make_mixed_batches(13, 7)
    assert images.shape == (18, 8, 8, 8, 1)
    is_other = images[..., 0, 0, 0].reshape(18, 2, 4) >= 100
    np.testing.assert_array_equal(is_other.sum(axis=-1), 3)


def test_labelled_images_are_those_without_the_others():
    images, labels = make_mixed_batches(13, 7)
    expected, expected_labels = make_training_batches(
        13, batch_size=2, augment=keep
    )
    is_own = images[..., 0, 0, 0] < 100
    np.testing.assert_array_equal(images[is_own], expected.reshape(-1, 8, 8, 1))
    np.testing.assert_array_equal(
        labels[is_own].argmax(axis=-1), expected_labels.ravel()
    )


def list_others(images):
    pixels = images[..., 0, 0, 0]
    return pixels[pixels >= 100].astype(int) - 100


def test_each_pseudo_labelled_image_comes_once_in_a_pass():
    images, _ = make_mixed_batches(13, 7)
    numbers = list_others(images)
    # 18 batches of 6: passes end within batches, and within epochs.
    passes = numbers[: 108 // 7 * 7].reshape(-1, 7)
    np.testing.assert_array_equal(
        np.sort(passes, axis=1), np.tile(np.arange(7), (15, 1))
    )
    assert len(np.unique(passes, axis=0)) > 10
    others = list_others(make_mixed_batches(13, 7, seed=1)[0])
    assert (numbers != others).any()


def test_both_kinds_have_orders_of_their_own():
    # The same numbers of images and in a batch.
    images, _ = make_mixed_batches(13, 13, batch_size=6)
    numbers = images[0, :, 0, 0, 0]
    labelled = numbers[numbers < 100]
    assert list(labelled) != list(list_others(images)[:6])


@pytest.mark.parametrize("steps_per_epoch", [None, 7])
@pytest.mark.parametrize(("epoch", "step"), [(0, 1), (1, 0), (2, 5)])
def test_resumed_batches_of_both_kinds_are_the_last_of_all(
    steps_per_epoch, epoch, step
):
    mix = functools.partial(mixing.mix_batch, mixup_alpha=0.8)
    arguments = {"steps_per_epoch": steps_per_epoch, "mix": mix}
    every = make_mixed_batches(13, 7, **arguments)
    last = make_mixed_batches(
        13, 7, initial_epoch=epoch, initial_step=step, **arguments
    )
    done = epoch * (steps_per_epoch or 6) + step
    for values, expected in zip(last, every, strict=True):
        np.testing.assert_array_equal(values, expected[done:])


def test_images_are_mixed_with_their_kind_and_soft_labels_as_they_are():
    mix = functools.partial(mixing.mix_batch, mixup_alpha=0.8)
    images, labels = make_mixed_batches(13, 7, mix=mix)
    pixels = images[..., 0, 0, 0]
    is_other = pixels > 99.9
    np.testing.assert_array_equal(is_other.sum(axis=-1), 6)
    # The pixels say what was mixed at which rate, and labels must say the same.
    assert (np.abs(pixels - np.round(pixels)) > 1e-3).mean() > 0.8
    np.testing.assert_allclose(
        labels[~is_other] @ np.arange(13), pixels[~is_other], atol=1e-4
    )
    shares = (pixels[is_other] - 100) / 7
    np.testing.assert_allclose(labels[is_other][:, -1], shares, atol=1e-5)
    np.testing.assert_allclose(labels[is_other][:, 0], 1 - shares, atol=1e-5)


def test_weights_of_the_losses_are_those_of_the_kinds():
    plain = make_mixed_batches(13, 7)
    images, labels, weights = make_mixed_batches(13, 7, loss_weight=0.25)
    np.testing.assert_array_equal(images, plain[0])
    np.testing.assert_array_equal(labels, plain[1])
    expected = np.where(images[..., 0, 0, 0] < 100, 1, 0.25)
    np.testing.assert_array_equal(weights, expected)
    assert weights.dtype == np.float32


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
