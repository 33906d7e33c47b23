"""Random changes to images whose pixels are known.

The factors of the color jitter are read from its results.
"""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from PIL import Image
from PIL import ImageEnhance

from tests.support.keyed import call_with_keys
from tests.support.keyed import make_image
from tests.support.keyed import make_key
from trainers.data import augmentation

# Shares of red, green and blue in gray.
LUMA = np.array([0.2989, 0.587, 0.114])


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


def make_muted_image(channels):
    """Returns an image that no factor of 0.6 to 1.4 takes out of its range."""
    image = 70 + tf.cast(make_image(channels=channels), tf.float32) / 5
    return image.numpy()


def jitter_many(image, strength, count):
    return call_with_keys(
        lambda key: augmentation.color_jitter(image, key, strength),
        range(count),
    )


def read_factors(image, jittered):
    """Returns the factors of brightness, contrast and saturation, by key.

    Contrast leaves the mean of the grays, and saturation leaves each gray.
    """
    gray = image @ LUMA if image.shape[-1] == 3 else image[..., 0]
    grays = jittered @ LUMA if image.shape[-1] == 3 else jittered[..., 0]
    brightness = grays.mean(axis=(1, 2)) / gray.mean()
    contrast = grays.std(axis=(1, 2)) / gray.std() / brightness
    if image.shape[-1] == 1:
        return np.stack([brightness, contrast])
    chroma = np.std(image - gray[..., None])
    chromas = np.std(jittered - grays[..., None], axis=(1, 2, 3))
    return np.stack([brightness, contrast, chromas / chroma])


@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_factors_are_evenly_spread(channels):
    image = make_muted_image(channels)
    jittered = jitter_many(image, 0.4, 600)
    factors = read_factors(image, jittered)
    if channels == 3:
        factors[2] /= factors[0] * factors[1]
    for factor in factors:
        spread = scipy.stats.uniform(0.6, 0.8)
        assert scipy.stats.kstest(factor, spread.cdf).pvalue > 0.01
    assert abs(np.corrcoef(factors) - np.eye(len(factors))).max() < 0.12


def test_color_jitter_equals_the_enhancements_of_pillow():
    image = np.round(make_muted_image(3))
    jittered = jitter_many(image, 0.4, 30)
    brightness, contrast, chroma = read_factors(image, jittered)
    saturation = chroma / (brightness * contrast)
    for number in range(30):
        picture = Image.fromarray(image.astype(np.uint8))
        picture = ImageEnhance.Brightness(picture).enhance(brightness[number])
        picture = ImageEnhance.Contrast(picture).enhance(contrast[number])
        picture = ImageEnhance.Color(picture).enhance(saturation[number])
        # It cuts off after each step, and rounds the mean of the grays.
        np.testing.assert_allclose(jittered[number], picture, atol=4)


@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_stays_in_the_range_of_levels(channels):
    image = make_image(channels=channels)
    jittered = jitter_many(image, 1.0, 100)
    assert jittered.dtype == np.float32
    assert jittered.shape[1:] == image.shape
    assert np.isfinite(jittered).all()
    assert jittered.min() == 0
    assert jittered.max() == 255


def test_color_jitter_of_no_strength_leaves_the_image():
    image = make_image()
    jittered = augmentation.color_jitter(image, make_key(0), 0.0)
    np.testing.assert_allclose(jittered, image, atol=1e-3)


def test_key_decides_the_colors_in_a_graph_and_eagerly():
    image = make_image()
    jittered = jitter_many(image, 0.4, 20)
    again = [
        augmentation.color_jitter(image, make_key(i), 0.4) for i in range(20)
    ]
    np.testing.assert_allclose(jittered, again, atol=1e-3)
    assert len(np.unique(jittered.mean(axis=(1, 2, 3)))) == 20


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_strength_outside_its_range_raises(strength):
    with pytest.raises(ValueError, match=f"Received: strength={strength}"):
        augmentation.color_jitter(make_image(), make_key(0), strength)
