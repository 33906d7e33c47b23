"""Lambda layers with random weights, and their random inputs."""

import keras
import numpy as np

from tests.support import reference

# Different primes, so that no axis can stand for another.
SIZES = dict(num_heads=2, key_dim=13)
FILTERS = 2 * 11
CHANNELS = 7
GRIDS = {"sequence": (19,), "image": (5, 3), "volume": (2, 5, 3)}


def make_inputs(grid, seed=1):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(2, *grid, CHANNELS)).astype("float32")


def build_layer(layer, grid):
    layer.build((None, *grid, CHANNELS))
    reference.randomize_weights(layer)
    return layer


def assert_close(actual, expected):
    """Equal to 1e-5 of the largest output."""
    actual, expected = map(keras.ops.convert_to_numpy, (actual, expected))
    scale = np.abs(expected).max()
    assert scale > 0.1
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * scale)
