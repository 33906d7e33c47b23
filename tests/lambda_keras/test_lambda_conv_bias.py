"""The bias of a LambdaConv's position lambdas, against the loops."""

import numpy as np
import pytest
from keras import ops

import lambda_keras
from tests.support import reference
from tests.support.lambda_layers import FILTERS
from tests.support.lambda_layers import GRIDS
from tests.support.lambda_layers import SIZES
from tests.support.lambda_layers import assert_close
from tests.support.lambda_layers import build_layer
from tests.support.lambda_layers import make_inputs

all_grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def build_biased(grid):
    layer = lambda_keras.LambdaConv(
        FILTERS,
        scope_size=3,
        intra_depth=3,
        num_key_value_heads=2,
        use_bias=True,
        **SIZES,
    )
    return build_layer(layer, grid)


@all_grids
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_biased_lambda_conv_matches_reference(grid, causal):
    layer, inputs = build_biased(grid), make_inputs(grid)
    assert_close(
        layer(inputs, use_causal_mask=causal),
        reference.call_layer(layer, inputs, causal=causal),
    )


def test_biased_lambda_conv_differs_from_one_without():
    layer, inputs = build_biased((5, 3)), make_inputs((5, 3))
    biased = layer(inputs)
    layer.bias.assign(0 * layer.bias)
    with pytest.raises(AssertionError):
        assert_close(layer(inputs), biased)


def test_steps_of_a_biased_lambda_conv_give_the_causal_call():
    layer, inputs = build_biased((19,)), make_inputs((19,))
    expected = layer(inputs, use_causal_mask=True)
    state = layer.get_initial_state(batch_size=2)
    for position in range(19):
        outputs, state = layer.step(inputs[:, position], state)
        assert_close(outputs, expected[:, position])


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_outputs_are_weighted_values_and_queries_times_the_bias(causal):
    """What `compute_weights` says of a layer with a bias."""
    layer, inputs = build_biased((5, 3)), make_inputs((5, 3))
    weights = sum(layer.compute_weights(inputs, use_causal_mask=causal))
    values = layer.value_normalization(layer.value(inputs))
    values = ops.convert_to_numpy(values).reshape(2, 15, 2, 3, 11)
    queries = layer.query_normalization(layer.query(inputs))
    queries = ops.convert_to_numpy(queries).reshape(2, 15, 2, 13)
    weights, bias = map(ops.convert_to_numpy, (weights, layer.bias))
    # Two heads, each with keys, values and a bias of its own.
    explained = np.einsum("bnhmu,bmhuv->bnhv", weights, values)
    biases = np.einsum("bnhk,hk->bnh", queries, bias)[..., None]
    outputs = ops.convert_to_numpy(layer(inputs, use_causal_mask=causal))
    outputs = outputs.reshape(2, 15, 2, 11)
    assert_close(outputs, explained + biases)
    with pytest.raises(AssertionError):
        assert_close(outputs, explained)


def test_a_bias_without_position_lambdas_raises():
    with pytest.raises(
        ValueError, match="`use_bias` needs `use_position=True`"
    ):
        lambda_keras.LambdaConv(8, use_position=False, use_bias=True)
