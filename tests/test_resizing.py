"""Networks that are trained at one resolution and used at another."""

import functools

import keras
import numpy as np
import pytest

import lambda_keras
from lambda_keras import resize_position_embeddings
from tests import reference


def make_table(scopes):
    """A table whose entries are 100 times the row plus the column."""
    rows, columns = (np.arange(scope) - scope // 2 for scope in scopes)
    values = 100.0 * rows[:, None] + columns
    return values[..., None, None, None] * np.ones((1, 1, 5))


@pytest.mark.parametrize("scopes", [(7, 5), (11, 3), (3, 13)])
def test_extending_keeps_each_offset_that_exists_in_both(scopes):
    resized = resize_position_embeddings(make_table((7, 5)), scopes)
    rows, columns = (np.arange(scope) - scope // 2 for scope in scopes)
    expected = 100.0 * np.clip(rows, -3, 3)[:, None] + np.clip(columns, -2, 2)
    assert resized.shape == (*scopes, 1, 1, 5)
    np.testing.assert_array_equal(resized[..., 0, 0, 0], expected)


@pytest.mark.parametrize("scopes", [(7, 5), (13, 9), (3, 1)])
def test_interpolating_stretches_the_table(scopes):
    """A table linear in the offsets stays linear between the same ends."""
    resized = resize_position_embeddings(
        make_table((7, 5)), scopes, "interpolate"
    )
    rows = np.linspace(-3, 3, scopes[0])
    columns = np.linspace(-2, 2, scopes[1]) if scopes[1] > 1 else np.zeros(1)
    np.testing.assert_allclose(
        resized[..., 0, 0, 2], 100.0 * rows[:, None] + columns
    )


@pytest.mark.parametrize(
    ("scopes", "method", "message"),
    [
        ((4, 5), "extend", r"odd numbers.*scopes=\(4, 5\)"),
        ((5,), "extend", r"as many.*scopes=\(5,\)"),
        ((5, 5), "nearest", r"`method`.*'nearest'"),
    ],
)
def test_bad_sizes_raise(scopes, method, message):
    with pytest.raises(ValueError, match=message):
        resize_position_embeddings(make_table((7, 5)), scopes, method)


def build(image_size, num_classes=10, weights=None, layer=None):
    if layer is None:
        layer = functools.partial(lambda_keras.LambdaLayer, key_dim=5)
    return lambda_keras.build_lambda_resnet(
        26,
        (image_size, image_size, 1),
        num_classes,
        lambda_layer=layer,
        stem_strides=1,
        width_multiplier=0.125,
        weights=weights,
    )


@pytest.fixture(scope="module")
def trained_at_16(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "model.keras"
    model = build(16)
    reference.randomize_weights(model)
    model.save(path)
    return model, path


def test_network_loads_at_another_resolution(trained_at_16):
    source, path = trained_at_16
    target = build(24, weights=path)
    tables = 0
    for theirs, ours in zip(source.weights, target.weights, strict=True):
        theirs, ours = map(keras.ops.convert_to_numpy, (theirs, ours))
        if theirs.shape != ours.shape:
            tables += 1
            theirs = resize_position_embeddings(theirs, ours.shape[:2])
        np.testing.assert_array_equal(theirs, ours)
    assert tables == 3


def test_network_loads_out_of_a_model_that_prepares_images(
    trained_at_16, tmp_path
):
    source, _ = trained_at_16
    images = keras.Input((16, 16, 1))
    whole = keras.Model(images, source(keras.layers.Rescaling(0.1)(images)))
    whole.save(tmp_path / "whole.keras")
    target = build(16, weights=tmp_path / "whole.keras")
    inputs = np.random.default_rng(0).normal(size=(2, 16, 16, 1))
    outputs, expected = map(
        keras.ops.convert_to_numpy, (target(inputs), whole(10 * inputs))
    )
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_weights_of_another_network_are_named(trained_at_16):
    _, path = trained_at_16
    with pytest.raises(
        ValueError, match=r"predictions/kernel \(256, 10\) for \(256, 3\)"
    ):
        build(16, num_classes=3, weights=path)
    with pytest.raises(ValueError, match=r"same network"):
        build(16, weights=path, layer=lambda_keras.LambdaConv)
