"""LambdaLayer and LambdaConv: equal to the definition, and what follows."""

import keras
import numpy as np
import pytest

import lambda_keras
from lambda_keras.contraction.orders import ORDERS
from lambda_keras.normalization import has_affine
from lambda_keras.normalization import project_normalized
from tests.support import reference
from tests.support.lambda_layers import CHANNELS
from tests.support.lambda_layers import FILTERS
from tests.support.lambda_layers import GRIDS
from tests.support.lambda_layers import SIZES
from tests.support.lambda_layers import assert_close
from tests.support.lambda_layers import build_layer
from tests.support.lambda_layers import make_inputs

all_orders = pytest.mark.parametrize("order", ORDERS)


@pytest.mark.parametrize("intra_depth", [1, 3])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_lambda_layer_matches_reference(grid, intra_depth):
    layer = build_layer(
        lambda_keras.LambdaLayer(FILTERS, intra_depth=intra_depth, **SIZES),
        grid,
    )
    inputs = make_inputs(grid)
    assert_close(layer(inputs), reference.call_layer(layer, inputs))


@all_orders
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_lambda_layer_in_any_order_matches_reference(grid, order):
    layer = build_layer(
        lambda_keras.LambdaLayer(FILTERS, contraction_order=order, **SIZES),
        grid,
    )
    inputs = make_inputs(grid)
    assert_close(layer(inputs), reference.call_layer(layer, inputs))


@all_orders
@pytest.mark.parametrize("scope_size", [1, 3, 7])
@pytest.mark.parametrize("intra_depth", [1, 3])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_lambda_conv_matches_reference(grid, intra_depth, scope_size, order):
    layer = build_layer(
        lambda_keras.LambdaConv(
            FILTERS,
            scope_size,
            intra_depth=intra_depth,
            contraction_order=order,
            **SIZES,
        ),
        grid,
    )
    inputs = make_inputs(grid)
    assert_close(layer(inputs), reference.call_layer(layer, inputs))


def test_lambda_layer_on_a_single_position_matches_reference():
    layer = build_layer(lambda_keras.LambdaLayer(FILTERS, **SIZES), (1, 1))
    inputs = make_inputs((1, 1))
    assert_close(layer(inputs), reference.call_layer(layer, inputs))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_lambda_conv_of_covering_scope_equals_lambda_layer(grid):
    scope_size = 2 * max(grid) - 1
    local = build_layer(
        lambda_keras.LambdaConv(FILTERS, scope_size, **SIZES), grid
    )
    everywhere = build_layer(lambda_keras.LambdaLayer(FILTERS, **SIZES), grid)
    for ours, theirs in zip(everywhere.weights, local.weights, strict=True):
        if ours.name != "table":
            ours.assign(theirs)
    reachable = tuple(
        slice(scope_size // 2 - size + 1, scope_size // 2 + size)
        for size in grid
    )
    table = keras.ops.convert_to_numpy(local.position_embeddings.table)
    everywhere.position_embeddings.table.assign(table[reachable])
    inputs = make_inputs(grid)
    assert_close(everywhere(inputs), local(inputs))


@all_orders
def test_lambda_conv_is_equivariant_to_translation(order):
    layer = build_layer(
        lambda_keras.LambdaConv(FILTERS, 3, contraction_order=order, **SIZES),
        (13, 11),
    )
    image = np.zeros((1, 13, 11, CHANNELS), "float32")
    image[:, 3:6, 2:6] = make_inputs((3, 4))[:1]
    # The batch norms would make a constant out of the zeros around the object.
    for norm in (layer.query_normalization, layer.value_normalization):
        norm.beta.assign(np.zeros(norm.beta.shape))
        norm.moving_mean.assign(np.zeros(norm.beta.shape))
    shifted = np.roll(image, (5, 4), axis=(1, 2))
    outputs = keras.ops.roll(layer(image), (5, 4), axis=(1, 2))
    assert_close(layer(shifted), outputs)


def test_lambda_layer_depends_on_relative_positions_only():
    layer = build_layer(lambda_keras.LambdaLayer(FILTERS, **SIZES), (5, 3))
    inputs = make_inputs((5, 3))
    table = keras.ops.convert_to_tensor(layer.position_embeddings.table)
    flipped_table = keras.ops.flip(table, axis=(0, 1))
    outputs = keras.ops.flip(layer(inputs), axis=(1, 2))
    layer.position_embeddings.table.assign(flipped_table)
    assert_close(layer(np.flip(inputs, axis=(1, 2))), outputs)


def test_without_position_embeddings_outputs_follow_permutations():
    layer = build_layer(lambda_keras.LambdaLayer(FILTERS, **SIZES), (19,))
    layer.position_embeddings.table.assign(0 * layer.position_embeddings.table)
    inputs = make_inputs((19,))
    order = np.random.default_rng(0).permutation(19)
    outputs = keras.ops.convert_to_numpy(layer(inputs))
    assert_close(layer(inputs[:, order]), outputs[:, order])


def test_lambda_conv_takes_any_grid_with_one_set_of_weights():
    layer = build_layer(
        lambda_keras.LambdaConv(FILTERS, 5, **SIZES), (None, None)
    )
    images = keras.Input((None, None, CHANNELS))
    model = keras.Model(images, layer(images))
    for grid in [(5, 3), (7, 11)]:
        inputs = make_inputs(grid)
        expected = reference.call_layer(layer, inputs)
        assert_close(layer(inputs), expected)
        assert_close(model.predict(inputs, verbose=0), expected)


def test_batch_norm_is_on_the_channels_of_queries_and_values_only():
    layer = build_layer(
        lambda_keras.LambdaConv(FILTERS, 5, intra_depth=3, **SIZES), (5, 3)
    )
    assert tuple(layer.query_normalization.gamma.shape) == (2 * 13,)
    assert tuple(layer.value_normalization.gamma.shape) == (3 * 11,)
    assert not any("key_norm" in w.path for w in layer.weights)
    assert not any("bias" in w.path for w in layer.weights)


def test_initializers_are_those_of_the_paper():
    keras.utils.set_random_seed(0)
    layer = lambda_keras.LambdaConv(512, 23, num_heads=4, key_dim=16)
    layer.build((None, 7, 7, 256))
    deviations = {
        "query": (layer.query.kernel, (16 * 256) ** -0.5),
        "key": (layer.key.kernel, 256**-0.5),
        "value": (layer.value.kernel, 256**-0.5),
        "position_embeddings": (layer.position_embeddings.table, 1.0),
    }
    for weight, deviation in deviations.values():
        weight = keras.ops.convert_to_numpy(weight)
        assert weight.std() == pytest.approx(deviation, rel=0.05)
        assert weight.mean() == pytest.approx(0, abs=0.05 * deviation)


def test_normalization_layer_is_copied_and_survives_the_config():
    layer = lambda_keras.LambdaLayer(
        8, normalization=keras.layers.LayerNormalization(epsilon=0.25)
    )
    layer = type(layer).from_config(layer.get_config())
    layer.build((None, 5, 3, CHANNELS))
    norms = (layer.query_normalization, layer.value_normalization)
    assert [type(norm) for norm in norms] == [
        keras.layers.LayerNormalization
    ] * 2
    assert [norm.epsilon for norm in norms] == [0.25] * 2
    assert norms[0].gamma is not norms[1].gamma


@keras.saving.register_keras_serializable(package="tests")
class NegatedBatchNormalization(keras.layers.BatchNormalization):
    """Does in inference what no scale of its weights says."""

    def call(self, inputs, training=None, mask=None):
        return -super().call(inputs, training=training, mask=mask)


@pytest.mark.parametrize(
    ("normalization", "folds"),
    [
        (keras.layers.BatchNormalization(), True),
        (keras.layers.BatchNormalization(scale=False), True),
        (keras.layers.BatchNormalization(center=False), True),
        (keras.layers.BatchNormalization(axis=1), False),
        (NegatedBatchNormalization(), False),
    ],
    ids=["default", "no_scale", "no_center", "rows", "subclass"],
)
def test_projection_is_normalized_whether_or_not_it_is_folded(
    normalization, folds
):
    layer = build_layer(
        lambda_keras.LambdaLayer(FILTERS, normalization=normalization, **SIZES),
        (5, 3),
    )
    inputs = make_inputs((5, 3))
    norm = layer.query_normalization
    assert has_affine(norm) == folds
    expected = norm(layer.query(inputs), training=False)
    queries = project_normalized(inputs, layer.query, norm, None, False)
    assert_close(queries, expected)


def test_normalization_none_leaves_queries_and_values():
    layer = lambda_keras.LambdaLayer(FILTERS, normalization=None, **SIZES)
    layer.build((None, 5, 3, CHANNELS))
    reference.randomize_weights(layer)
    inputs = make_inputs((5, 3))
    assert len(layer.weights) == 4
    assert_close(layer(inputs), reference.call_layer(layer, inputs))


@pytest.mark.parametrize(
    ("make_layer", "message"),
    [
        (
            lambda: lambda_keras.LambdaConv(10, num_heads=4),
            r"divisible by `num_heads`.*filters=10, num_heads=4",
        ),
        (
            lambda: lambda_keras.LambdaConv(8, scope_size=4),
            r"must be odd.*scope_size=4",
        ),
        (
            lambda: lambda_keras.LambdaConv(8, scope_size=0),
            r"positive integer.*scope_size=0",
        ),
        (
            lambda: lambda_keras.LambdaLayer(8, key_dim=1.5),
            r"positive integer.*key_dim=1.5",
        ),
        (
            lambda: lambda_keras.LambdaLayer(8, normalization="layer"),
            r"Keras layer.*normalization='layer'",
        ),
        (
            lambda: lambda_keras.LambdaLayer(8).build((None, None, 4, 3)),
            r"grid of known size.*grid=\(None, 4\)",
        ),
        (
            lambda: lambda_keras.LambdaConv(8).build((None, 4)),
            r"sequences, images or volumes.*shape \(None, 4\)",
        ),
        (
            lambda: lambda_keras.LambdaConv(8).build((None, 4, 4, None)),
            r"known size.*shape \(None, 4, 4, None\)",
        ),
    ],
    ids=[
        "filters",
        "even_scope",
        "no_scope",
        "key_dim",
        "normalization",
        "unknown_height",
        "rank",
        "unknown_channels",
    ],
)
def test_bad_arguments_raise(make_layer, message):
    with pytest.raises(ValueError, match=message):
        make_layer()
