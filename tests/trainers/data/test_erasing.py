"""Tests of random erasing: how often, where, how much, with what."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tests.support.keyed import call_with_keys
from tests.support.keyed import make_image
from tests.support.keyed import make_key
from trainers.data.erasing import random_erasing

# No whole number, which all noise is.
UNTOUCHED = 0.5


def erase_blank(height, width, channels=1, rate=1.0):
    image = tf.fill((height, width, channels), UNTOUCHED)
    return call_with_keys(
        lambda key: random_erasing(image, key, rate), range(1000)
    )


def find_rectangles(images):
    """Returns starts and sizes, `(count, 2)`, of what is erased."""
    erased = np.any(images != UNTOUCHED, axis=-1)
    rows, columns = erased.any(axis=2), erased.any(axis=1)
    # Each is one rectangle, and whole.
    np.testing.assert_array_equal(
        erased, rows[:, :, None] & columns[:, None, :]
    )
    for line in (*rows, *columns):
        assert np.abs(np.diff(line.astype(int))).sum() <= 2
    starts = np.stack([rows.argmax(axis=1), columns.argmax(axis=1)], -1)
    sizes = np.stack([rows.sum(axis=1), columns.sum(axis=1)], -1)
    return starts, sizes


def test_areas_are_evenly_spread_between_the_limits():
    _, sizes = find_rectangles(erase_blank(211, 211))
    shares = sizes.prod(axis=1) / 211**2
    # Sides are whole pixels.
    assert 0.018 < shares.min() < 0.025
    assert 0.32 < shares.max() < 0.337
    spread = scipy.stats.uniform(0.02, 1 / 3 - 0.02)
    assert scipy.stats.kstest(shares, spread.cdf).pvalue > 0.01


def test_ratios_of_the_sides_are_evenly_spread_in_their_logarithm():
    _, sizes = find_rectangles(erase_blank(211, 211))
    ratios = np.log(sizes[:, 0] / sizes[:, 1]) / np.log(1 / 0.3)
    assert scipy.stats.kstest(ratios, "uniform", (-1, 2)).pvalue > 0.01


@pytest.mark.parametrize(("height", "width"), [(41, 67), (67, 41)])
def test_rectangles_lie_anywhere_in_the_image(height, width):
    starts, sizes = find_rectangles(erase_blank(height, width))
    areas = sizes.prod(axis=1) / (height * width)
    assert 0.01 < areas.min() < 0.03
    assert 0.3 < areas.max() < 0.36
    room = np.array([height, width]) - sizes
    assert (room > 0).all()
    # The share of the room before them, the pixels being whole.
    shares = (starts + 0.5) / (room + 1)
    for axis in range(2):
        assert scipy.stats.kstest(shares[:, axis], "uniform").pvalue > 0.001
        assert (starts[:, axis] == 0).any()
        assert (starts[:, axis] == room[:, axis]).any()


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.7, 1.0])
def test_rate_is_the_share_of_erased_images(rate):
    images = erase_blank(17, 19, rate=rate)
    erased = np.any(images != UNTOUCHED, axis=(1, 2, 3)).sum()
    if rate in (0.0, 1.0):
        assert erased == rate * 1000
    else:
        assert scipy.stats.binomtest(erased, 1000, rate).pvalue > 0.01


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_has_all_levels_in_each_channel(channels):
    images = erase_blank(31, 37, channels)
    for channel in range(channels):
        noise = images[..., channel]
        noise = noise[noise != UNTOUCHED].astype(int)
        frequencies = np.bincount(noise, minlength=256)
        assert len(frequencies) == 256
        assert scipy.stats.chisquare(frequencies).pvalue > 0.01
    if channels == 3:
        pixels = images[images[..., 0] != UNTOUCHED]
        assert abs(np.corrcoef(pixels.T)[0, 1:]).max() < 0.05


@pytest.mark.parametrize("dtype", [tf.uint8, tf.float32])
def test_key_decides_the_image_in_a_graph_and_eagerly(dtype):
    image = tf.cast(make_image(), dtype)
    results = call_with_keys(
        lambda key: random_erasing(image, key, 0.5), range(30)
    )
    assert results.dtype == dtype.as_numpy_dtype
    again = [random_erasing(image, make_key(i), 0.5) for i in range(30)]
    np.testing.assert_array_equal(results, again)
    assert len(np.unique(results.reshape(30, -1), axis=0)) > 8


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rate_that_is_no_share_raises(rate):
    with pytest.raises(ValueError, match=f"Received: rate={rate}"):
        random_erasing(make_image(), make_key(0), rate)
