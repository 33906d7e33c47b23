"""Tests of the whole augmentation of an image."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.keyed import call_with_keys
from tests.support.keyed import make_image
from tests.support.keyed import make_key
from trainers.data import augmentation
from trainers.data.composition import compose_augmentation
from trainers.data.erasing import random_erasing
from trainers.data.rand_augment import rand_augment

ALL = {
    "color_jitter_strength": 0.4,
    "rand_augment_layers": 2,
    "rand_augment_magnitude": 10.0,
    "random_erasing_rate": 0.5,
}


def augment_many(crop, image, numbers=range(40), **steps):
    augment = compose_augmentation(crop, **steps)
    return call_with_keys(lambda key: augment(image, 19, key), numbers)


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_images_depend_on_the_key_alone(channels):
    image = make_image(channels=channels)
    numbers = [*range(40), *range(40)]
    images = augment_many(augmentation.crop_and_flip, image, numbers, **ALL)
    assert images.dtype == np.float32
    assert images.shape == (80, 19, 19, channels)
    assert np.isfinite(images).all()
    assert images.min() >= 0
    assert images.max() <= 255
    np.testing.assert_array_equal(images[:40], images[40:])
    assert len(np.unique(images.reshape(80, -1), axis=0)) == 40


@pytest.mark.parametrize(
    "crop",
    [
        augmentation.jitter,
        augmentation.shift_and_flip,
        augmentation.crop_and_flip,
    ],
)
def test_without_steps_the_crop_is_all(crop):
    image = make_image(channels=1)
    crops = call_with_keys(lambda key: crop(image, 19, key), range(40))
    np.testing.assert_array_equal(augment_many(crop, image), crops)


def test_steps_follow_in_their_order():
    image = make_image()
    key = make_key(5)
    keys = augmentation.split_key(key, 5)
    expected = augmentation.crop_and_flip(image, 19, key)
    expected = augmentation.color_jitter(expected, keys[2], 0.4)
    expected = rand_augment(expected, keys[3], 2, 10.0)
    expected = random_erasing(expected, keys[4], 1.0)
    augment = compose_augmentation(
        augmentation.crop_and_flip, **{**ALL, "random_erasing_rate": 1.0}
    )
    np.testing.assert_array_equal(augment(image, 19, key), expected)


def test_a_step_draws_the_same_whatever_the_others():
    image = tf.fill((29, 23, 3), 100.0)
    alone = augment_many(
        augmentation.crop_and_flip, image, random_erasing_rate=0.5
    )
    together = augment_many(augmentation.crop_and_flip, image, **ALL)
    # Where there is noise, a crop of one level says.
    erased = np.any(np.abs(alone - 100) > 0.5, axis=-1)
    np.testing.assert_array_equal(alone[erased], together[erased])
    assert erased.any()
