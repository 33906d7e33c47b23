"""Tests of Mixup and CutMix against NumPy and against counted pixels."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tests.support.keyed import call_with_keys
from tests.support.keyed import make_key
from trainers.data.mixing import mix_batch

BOTH = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}


def make_batch(size=5, height=13, width=7, channels=3):
    """Returns random images, each of a class of its own."""
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (size, height, width, channels))
    return images.astype(np.float32), np.eye(size, dtype=np.float32)


def mix(images, labels, key, **alphas):
    mixed = mix_batch(tf.constant(images), tf.constant(labels), key, **alphas)
    return [values.numpy() for values in mixed]


def cut_numbered(size, height, width, alpha=1.0):
    """Returns which pixels are another's, and the labels, of one batch.

    Each pixel holds the number of its image.
    """
    numbers = np.arange(size, dtype=np.float32)
    images = np.broadcast_to(
        numbers[:, None, None, None], (size, height, width, 1)
    )
    mixed, labels = mix(images, np.eye(size), make_key(3), cutmix_alpha=alpha)
    mixed = mixed[..., 0]
    is_own = mixed == numbers[:, None, None]
    partners = np.roll(numbers, 1)[:, None, None]
    assert (is_own | (mixed == partners)).all()
    return ~is_own, labels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_averages_with_the_example_before(channels, alpha):
    images, labels = make_batch(channels=channels)
    mixed, mixed_labels = mix(images, labels, make_key(1), mixup_alpha=alpha)
    rates = np.diag(mixed_labels)
    others = np.roll(images, 1, axis=0).astype(float)
    rate = rates[:, None, None, None].astype(float)
    np.testing.assert_allclose(
        mixed, rate * images + (1 - rate) * others, atol=1e-3
    )
    assert (rates >= 0).all()
    assert (rates <= 1).all()
    expected = np.diag(rates) + np.roll(np.diag(1 - rates), -1, axis=1)
    np.testing.assert_allclose(mixed_labels, expected, atol=1e-6)
    assert len(set(rates)) == len(rates)


@pytest.mark.parametrize("alpha", [0.1, 0.8, 1.0, 4.0])
def test_mixup_draws_its_rates_from_the_beta_distribution(alpha):
    images, labels = make_batch(1009, 1, 1, 1)
    _, labels = mix(images, labels, make_key(2), mixup_alpha=alpha)
    rates = np.diag(labels).astype(float)
    # Of the upper half many round to 1.
    lower = rates[rates < 0.5]
    assert scipy.stats.binomtest(len(lower), len(rates)).pvalue > 0.01
    beta = scipy.stats.beta(alpha, alpha)
    result = scipy.stats.kstest(lower, lambda rate: 2 * beta.cdf(rate))
    assert result.pvalue > 0.01


def test_mixup_of_a_tiny_alpha_stays_finite():
    images, labels = make_batch(1009, 1, 1, 1)
    mixed, labels = mix(images, labels, make_key(2), mixup_alpha=1e-3)
    assert np.isfinite(mixed).all()
    rates = np.diag(labels)
    np.testing.assert_allclose(rates.mean(), 0.5, atol=0.06)
    assert np.mean((rates < 0.01) | (rates > 0.99)) > 0.97


@pytest.mark.parametrize(("height", "width"), [(13, 31), (31, 13), (17, 17)])
def test_cutmix_labels_are_the_shares_of_the_pixels(height, width):
    is_cut, labels = cut_numbered(101, height, width)
    own = 1 - is_cut.mean(axis=(1, 2))
    expected = np.diag(own) + np.roll(np.diag(1 - own), -1, axis=1)
    np.testing.assert_allclose(labels, expected, atol=2e-7)
    assert 0 < np.median(own) < 1


@pytest.mark.parametrize(("height", "width"), [(31, 97), (97, 31)])
def test_cutmix_rectangles_have_the_proportions_of_the_image(height, width):
    is_cut, _ = cut_numbered(400, height, width)
    rows, columns = is_cut.any(axis=2), is_cut.any(axis=1)
    np.testing.assert_array_equal(
        is_cut, rows[:, :, None] & columns[:, None, :]
    )
    at_border = rows[:, [0, -1]].any(axis=1) | columns[:, [0, -1]].any(axis=1)
    row_shares = rows.mean(axis=1)[~at_border]
    column_shares = columns.mean(axis=1)[~at_border]
    assert len(row_shares) > 20
    np.testing.assert_allclose(row_shares, column_shares, atol=1 / 31 + 1 / 97)


def test_cutmix_rectangles_lie_anywhere_in_the_image():
    is_cut, _ = cut_numbered(2000, 13, 31)
    shares = is_cut.mean(axis=0)
    for axis in range(2):
        np.testing.assert_allclose(shares, np.flip(shares, axis), atol=0.06)
    assert 0.05 < shares.min() < shares.max() < 0.5


def test_cutmix_areas_before_the_cut_follow_the_beta_distribution():
    # Seen where the middle of the image is the middle of the rectangle: the
    # height of one that reaches no border is the root of its area.
    is_cut, _ = cut_numbered(4001, 101, 101, alpha=3.0)
    rows = is_cut.any(axis=2)
    inside = ~rows[:, [0, -1]].any(axis=1)
    heights = rows[inside].mean(axis=1)
    # Those of height h reach no border in a share of 1 - h.
    grid = np.linspace(0, 1, 2001)
    beta = scipy.stats.beta(3.0, 3.0)
    density = beta.pdf(grid**2) * 2 * grid * (1 - grid)
    cumulated = np.cumsum(density) / density.sum()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, len(heights)) / 101
    result = scipy.stats.kstest(
        heights + noise, lambda value: np.interp(value, grid, cumulated)
    )
    assert result.pvalue > 0.01


def test_half_of_the_batches_get_mixup_and_half_cutmix():
    images, labels = make_batch()
    mixed, mixed_labels = call_with_keys(
        lambda key: mix_batch(
            tf.constant(images), tf.constant(labels), key, **BOTH
        ),
        range(500),
    )
    # CutMix makes no new values.
    is_cutmix = np.isin(mixed, images).all(axis=(1, 2, 3, 4))
    assert scipy.stats.binomtest(is_cutmix.sum(), 500).pvalue > 0.01
    np.testing.assert_allclose(mixed_labels.sum(axis=-1), 1, rtol=1e-6)
    assert mixed.min() >= 0
    assert mixed.max() <= 255.001


@pytest.mark.parametrize(
    "alphas",
    [{"mixup_alpha": 0.8}, {"cutmix_alpha": 1.0}, BOTH],
    ids=["mixup", "cutmix", "both"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_key_decides_the_batch_in_a_graph_and_eagerly(alphas, channels):
    images, labels = make_batch(channels=channels)

    def call(key):
        return mix_batch(
            tf.constant(images), tf.constant(labels), key, **alphas
        )

    mixed, mixed_labels = call_with_keys(call, range(10))
    assert mixed.shape[1:] == images.shape
    again, labels_again = zip(
        *(call(make_key(index)) for index in range(10)), strict=True
    )
    # A graph may multiply and add at once.
    np.testing.assert_allclose(mixed, again, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(mixed_labels, labels_again, rtol=1e-5)
    assert len(np.unique(mixed.reshape(10, -1), axis=0)) == 10


def test_labels_may_be_smoothed():
    images, labels = make_batch()
    smoothed = (0.9 * labels + 0.1 / 5).astype(np.float32)
    _, mixed = mix(images, labels, make_key(4), **BOTH)
    _, mixed_smoothed = mix(images, smoothed, make_key(4), **BOTH)
    np.testing.assert_allclose(mixed_smoothed, 0.9 * mixed + 0.1 / 5, rtol=1e-5)


def test_nothing_is_mixed_without_an_alpha():
    images, labels = make_batch()
    mixed, mixed_labels = mix(images, labels, make_key(0))
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_array_equal(mixed_labels, labels)


@pytest.mark.parametrize("value", [-0.5, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["mixup_alpha", "cutmix_alpha"])
def test_alpha_that_is_no_parameter_raises(name, value):
    with pytest.raises(ValueError, match=f"Received: .*{name}={value}"):
        mix(*make_batch(), make_key(0), **{name: value})
