"""Random changes to images whose pixels are known."""

import numpy as np
import pytest
import tensorflow as tf

from trainers.data import augmentation


def test_jitter_moves_a_point_as_far_as_it_says():
    image = np.zeros((16, 16, 1), np.float32)
    image[7:9, 7:9] = 255
    rows, columns = np.mgrid[:16, :16] - 7.5
    shifts = []
    for number in range(200):
        moved = augmentation.jitter(
            image, 16, tf.constant([0, number]), rotation=0.0, zoom=0.0
        )[..., 0]
        weights = moved / np.sum(moved)
        shifts.append([np.sum(weights * rows), np.sum(weights * columns)])
    np.testing.assert_allclose(np.max(np.abs(shifts), axis=0), 2, atol=0.1)
    np.testing.assert_allclose(np.mean(shifts, axis=0), 0, atol=0.25)


@pytest.mark.parametrize(
    "augment", [augmentation.shift_and_flip, augmentation.crop_and_flip]
)
def test_augmentation_flips_every_other_image(augment):
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (24, 1))[..., None]
    flips = 0
    for number in range(200):
        image = augment(ramp, 24, tf.constant([0, number])).numpy()
        flips += image[12, 6, 0] > image[12, 18, 0]
        assert image.shape == (24, 24, 1)
        assert 0 <= image.min() <= image.max() <= 240
    assert 70 < flips < 130
