"""Networks that are trained at one resolution and used at another."""

import functools

import keras
import numpy as np
import pytest

import lambda_keras
from lambda_keras import attention
from lambda_keras import resize_position_embeddings
from lambda_keras.networks.weights import copy_weights
from tests.support import reference


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


def test_the_table_of_an_axis_is_resized_as_the_table_of_a_line():
    table = np.random.default_rng(0).normal(size=(7, 5))
    for method in ("extend", "interpolate"):
        for scope in (3, 7, 13):
            of_lambdas = resize_position_embeddings(
                table[:, None, None], (scope,), method
            )
            resized = resize_position_embeddings(table, (scope,), method)
            np.testing.assert_array_equal(resized, of_lambdas[:, 0, 0])


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


def keep_offsets(table, size):
    """Returns the table of an axis of another size, from its offsets."""
    learned = len(table) // 2
    offsets = np.clip(np.arange(1 - size, size), -learned, learned)
    return table[offsets + learned]


def test_network_of_attention_loads_at_another_resolution(tmp_path):
    layer = functools.partial(attention.AttentionAugmentedConv2D, num_heads=2)
    source = build(16, layer=layer)
    reference.randomize_weights(source)
    source.save(tmp_path / "model.keras")
    target = build(24, weights=tmp_path / "model.keras", layer=layer)
    sizes = []
    for theirs, ours in zip(source.weights, target.weights, strict=True):
        theirs, ours = map(keras.ops.convert_to_numpy, (theirs, ours))
        if theirs.shape != ours.shape:
            sizes.append((len(theirs) // 2 + 1, len(ours) // 2 + 1))
            theirs = keep_offsets(theirs, sizes[-1][1])
        np.testing.assert_array_equal(theirs, ours)
    # Two tables a layer: one layer in c4, one in c5 before its stride.
    assert sorted(sizes) == [(2, 3)] * 2 + [(4, 6)] * 4


def wrap(layer, grid, **kwargs):
    """A model of one attention layer with random weights."""
    layer = layer(6, num_heads=2, name="attention", **kwargs)
    model = keras.Sequential([keras.Input((*grid, 5)), layer])
    reference.randomize_weights(model)
    return model


@pytest.mark.parametrize(
    ("layer", "grid", "other"),
    [
        (attention.RelativeSelfAttention, (5,), (3,)),
        (attention.RelativeSelfAttention, (3, 2, 5), (3, 7, 2)),
        (attention.AxialSelfAttention, (3, 5), (7, 2)),
    ],
    ids=["sequence", "volume", "axial"],
)
def test_attention_keeps_the_embedding_of_each_offset(layer, grid, other):
    source, target = wrap(layer, grid), wrap(layer, other)
    copy_weights(source, target)
    tables = [weight for weight in target.weights if "table" in weight.name]
    assert len(tables) == len(other)
    sizes = iter(other)
    for theirs, ours in zip(source.weights, target.weights, strict=True):
        expected = keras.ops.convert_to_numpy(theirs)
        if "table" in ours.name:
            expected = keep_offsets(expected, next(sizes))
        np.testing.assert_array_equal(ours, expected)


def test_attention_of_another_key_depth_is_refused():
    source, target = (
        wrap(attention.RelativeSelfAttention, grid, key_dim=key_dim)
        for grid, key_dim in (((3, 5), 4), ((7, 2), 6))
    )
    before = target.get_weights()
    with pytest.raises(ValueError, match=r"table_0 \(5, 4\) for \(13, 6\)"):
        copy_weights(source, target)
    for weight, expected in zip(target.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


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
