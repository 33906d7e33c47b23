"""What training makes of pseudo-labelled images, from flags to the loss."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers import optimization
from trainers import training
from trainers.averaging import AveragedModel
from trainers.data.datasets import open_dataset
from trainers.data.image_dataset import Split
from trainers.program import UserError
from trainers.settings import Run
from trainers.settings import make_recipe
from trainers.settings import resolve_flags
from trainers.strategies import find_devices

CLASSES = 10


@pytest.fixture(scope="module")
def dataset():
    """100 digits, and 40 white images with labels that are drawn."""
    digits = open_dataset("digits")
    labels = np.random.default_rng(0).dirichlet(np.ones(CLASSES), 40)
    white = np.full((40, 8, 8, 1), 255, np.uint8)
    others = Split(
        tf.data.Dataset.from_tensor_slices((white, np.float32(labels))),
        size=40,
        shuffle_buffer=40,
        load=tf.identity,
    )
    train = dataclasses.replace(digits.train, size=100)
    return dataclasses.replace(digits, train=train, pseudo_labelled=others)


def make(**flags):
    flags = {"batch_size": 32, "image_size": 8, **flags}
    return make_recipe(resolve_flags(flags, saved={}))


def read_batch(dataset, recipe):
    batches = training.make_training_batches(recipe, dataset, seed=0, epochs=1)
    return next(batches.as_numpy_iterator())


def are_white(images):
    return images.min(axis=(1, 2, 3)) > 254


@pytest.mark.parametrize("loss_weight", [1.0, 0.25])
def test_loss_is_that_of_the_weights_and_the_smoothed_labels(
    dataset, loss_weight
):
    recipe = make(
        pseudo_ratio=3.0,
        pseudo_loss_weight=loss_weight,
        label_smoothing=0.2,
        mixup_alpha=0.5,
        weight_decay=0.0,
        learning_rate=1e-30,
    )
    # Without the shifts of digits, white stays white.
    recipe = dataclasses.replace(
        recipe, augment=lambda image, *_: tf.cast(image, tf.float32)
    )
    batch = read_batch(dataset, recipe)
    images, labels = batch[:2]
    is_other = are_white(images)
    assert is_other.sum() == 24
    assert len(batch) == (2 if loss_weight == 1 else 3)
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES),
        ]
    )
    logits = network.predict(images, verbose=0).astype(float)
    model = AveragedModel(network, momentum=0.5, gradient_accumulation_steps=4)
    optimization.compile_classifier(model, recipe, steps_per_epoch=1)
    loss = model.train_on_batch(*batch, return_dict=True)["loss"]

    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    smoothed = 0.8 * labels + 0.2 / CLASSES
    losses = -(smoothed * logs).sum(axis=-1)
    weights = np.where(is_other, loss_weight, 1)
    np.testing.assert_allclose(loss, (weights * losses).sum() / 32, rtol=1e-5)


def test_pseudo_labelled_images_have_an_augmentation_of_their_own(dataset):
    recipe = make(
        pseudo_ratio=1.0,
        random_erasing_rate=0.0,
        pseudo_random_erasing_rate=1.0,
    )
    recipe = dataclasses.replace(
        recipe, augment=lambda image, *_: tf.cast(image, tf.float32)
    )
    images, _ = read_batch(dataset, recipe)
    # Of the first half of the batch as of the second.
    is_erased = (images[:, :, :, 0] == 255).mean(axis=(1, 2))
    erased = (is_erased > 0.5) & (is_erased < 1)
    np.testing.assert_array_equal(erased, np.tile([False, True], 16))
    same = dataclasses.replace(recipe, pseudo_random_erasing_rate=None)
    images, _ = read_batch(dataset, same)
    np.testing.assert_array_equal(are_white(images), np.tile([False, True], 16))


def test_epoch_is_a_pass_through_the_labelled_images(dataset):
    assert training.count_steps(make(pseudo_ratio=3.0), dataset) == 100 // 8
    assert training.count_steps(make(steps_per_epoch=7), dataset) == 7
    plain = dataclasses.replace(dataset, pseudo_labelled=None)
    assert training.count_steps(make(pseudo_ratio=3.0), plain) == 100 // 32


def test_batch_of_more_labelled_images_than_there_are_is_one_line(dataset):
    recipe = make(batch_size=404, pseudo_ratio=3.0)
    with pytest.raises(UserError) as error:
        training.check_batches(recipe, dataset, Run(), find_devices())
    assert str(error.value) == (
        "--batch_size must be at most 400, because there are 100 labelled "
        "images to train on. Received: --batch_size=404"
    )
    training.check_batches(
        make(batch_size=400, pseudo_ratio=3.0), dataset, Run(), find_devices()
    )
