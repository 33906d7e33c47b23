"""Masks, contexts, heads, normalizations and steps, against the loops."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import lambda_keras
from tests.support import reference
from tests.support.lambda_layers import CHANNELS
from tests.support.lambda_layers import FILTERS
from tests.support.lambda_layers import GRIDS
from tests.support.lambda_layers import SIZES
from tests.support.lambda_layers import assert_close
from tests.support.lambda_layers import build_layer
from tests.support.lambda_layers import make_inputs

LAYERS = {
    "lambda_layer": dict(),
    "lambda_conv": dict(scope_size=5),
    "lambda_conv_local_content": dict(scope_size=3, local_content=True),
}
all_layers = pytest.mark.parametrize("arguments", LAYERS.values(), ids=LAYERS)
all_grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
all_key_normalizations = pytest.mark.parametrize(
    "key_normalization", ["softmax", "l2", None]
)


def make_layer(**arguments):
    arguments = {"filters": FILTERS, **SIZES, **arguments}
    if "scope_size" in arguments:
        return lambda_keras.LambdaConv(**arguments)
    return lambda_keras.LambdaLayer(**arguments)


def make_mask(shape, seed=3, share=0.6):
    return np.random.default_rng(seed).random(shape) < share


@all_layers
@all_grids
@all_key_normalizations
def test_key_normalization_matches_reference(
    arguments, grid, key_normalization
):
    layer = make_layer(key_normalization=key_normalization, **arguments)
    build_layer(layer, grid)
    inputs = make_inputs(grid)
    assert_close(layer(inputs), reference.call_layer(layer, inputs))


@all_layers
@all_grids
@pytest.mark.parametrize("num_key_value_heads", [2, 6])
def test_multi_head_matches_reference(arguments, grid, num_key_value_heads):
    """Six heads that share two lambdas, and six that share none."""
    layer = make_layer(
        **arguments
        | dict(
            filters=6 * 11,
            num_heads=6,
            num_key_value_heads=num_key_value_heads,
            intra_depth=3,
        )
    )
    build_layer(layer, grid)
    inputs = make_inputs(grid)
    assert_close(layer(inputs), reference.call_layer(layer, inputs))


@all_layers
@pytest.mark.parametrize("part", ["use_content", "use_position"])
def test_one_part_alone_matches_reference(arguments, part):
    layer = build_layer(make_layer(**{part: False}, **arguments), (5, 3))
    inputs = make_inputs((5, 3))
    assert_close(layer(inputs), reference.call_layer(layer, inputs))
    names = {weight.path.split("/")[-2] for weight in layer.weights}
    left_out = {"use_content": "key", "use_position": "position_embeddings"}
    assert left_out[part] not in names


@all_layers
@all_grids
@all_key_normalizations
def test_causal_mask_matches_reference(arguments, grid, key_normalization):
    layer = make_layer(
        key_normalization=key_normalization, intra_depth=3, **arguments
    )
    build_layer(layer, grid)
    inputs = make_inputs(grid)
    assert_close(
        layer(inputs, use_causal_mask=True),
        reference.call_layer(layer, inputs, causal=True),
    )


@all_layers
@all_grids
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("key_normalization", ["softmax", "l2"])
def test_padding_mask_matches_reference(
    arguments, grid, causal, key_normalization
):
    layer = make_layer(key_normalization=key_normalization, **arguments)
    build_layer(layer, grid)
    inputs = make_inputs(grid)
    mask = make_mask((2, *grid))
    assert_close(
        layer(inputs, mask=mask, use_causal_mask=causal),
        reference.call_layer(layer, inputs, padding=mask, causal=causal),
    )


@all_layers
@all_grids
@all_key_normalizations
def test_mask_of_pairs_matches_reference(arguments, grid, key_normalization):
    layer = make_layer(
        key_normalization=key_normalization,
        num_key_value_heads=2,
        intra_depth=3,
        **arguments,
    )
    build_layer(layer, grid)
    inputs = make_inputs(grid)
    mask = make_mask((2, *grid, *grid))
    assert_close(
        layer(inputs, mask=mask),
        reference.call_layer(layer, inputs, pairs=mask),
    )


@all_layers
def test_masks_of_all_kinds_together_match_reference(arguments):
    layer = build_layer(make_layer(**arguments), (5, 3))
    inputs = make_inputs((5, 3))
    pairs = make_mask((2, 5, 3, 5, 3))
    padding = make_mask((2, 5, 3), seed=4)
    assert_close(
        layer(inputs, mask=pairs, inputs_mask=padding, use_causal_mask=True),
        reference.call_layer(
            layer, inputs, pairs=pairs, padding=padding, causal=True
        ),
    )


@all_layers
@all_key_normalizations
def test_a_query_that_sees_nothing_returns_zeros(arguments, key_normalization):
    layer = make_layer(key_normalization=key_normalization, **arguments)
    build_layer(layer, (19,))
    inputs = make_inputs((19,))
    pairs = make_mask((2, 19, 19))
    pairs[0, 7] = False
    outputs = keras.ops.convert_to_numpy(layer(inputs, mask=pairs))
    assert np.all(outputs[0, 7] == 0)
    assert np.all(np.abs(outputs[1]).max(axis=-1) > 0)
    hidden = np.zeros((2, 19), bool)
    hidden[1] = True
    for causal in (False, True):
        outputs = layer(inputs, mask=hidden, use_causal_mask=causal)
        outputs = keras.ops.convert_to_numpy(outputs)
        assert np.all(outputs[0] == 0)
        assert np.all(np.isfinite(outputs[1]))
        assert np.abs(outputs[1]).max() > 0.1


@pytest.mark.slow
@all_layers
@pytest.mark.parametrize("grid", [(19,), (5, 3)], ids=["sequence", "image"])
def test_a_causal_stack_leaks_nothing(arguments, grid):
    first, second = (make_layer(**arguments) for _ in range(2))
    build_layer(first, grid)
    second.build((None, *grid, FILTERS))
    reference.randomize_weights(second)

    def call(inputs):
        outputs = second(
            first(inputs, use_causal_mask=True), use_causal_mask=True
        )
        outputs = keras.ops.convert_to_numpy(outputs)
        return outputs.reshape(2, -1, FILTERS)

    inputs = make_inputs(grid)
    before = call(inputs)
    positions = np.prod(grid)
    for position in range(positions):
        changed = inputs.copy().reshape(2, -1, CHANNELS)
        changed[:, position] += 1.0
        after = call(changed.reshape(inputs.shape))
        difference = np.abs(after - before).max(axis=(0, 2))
        assert np.all(difference[:position] < 1e-5)
        assert difference[position] > 1e-3


@pytest.mark.slow
@all_layers
@all_key_normalizations
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_a_step_of_training_is_that_of_the_dense_computation(
    arguments, key_normalization, causal
):
    """A mask of pairs that hides nothing makes every query weigh every key."""

    def train(**call_arguments):
        layer = make_layer(key_normalization=key_normalization, **arguments)
        inputs = keras.Input((19, CHANNELS))
        model = keras.Model(
            inputs, layer(inputs, use_causal_mask=causal, **call_arguments)
        )
        reference.randomize_weights(layer)
        before = model.get_weights()
        model.compile(keras.optimizers.SGD(1.0), loss="mse", run_eagerly=True)
        targets = np.random.default_rng(2).normal(size=(2, 19, FILTERS))
        model.train_on_batch(make_inputs((19,)), targets)
        return [
            new - old
            for new, old in zip(model.get_weights(), before, strict=True)
        ]

    fast = train()
    dense = train(mask=keras.ops.ones((2, 19, 19), "bool"))
    for change, expected in zip(fast, dense, strict=True):
        scale = np.abs(expected).max()
        assert scale > 0
        np.testing.assert_allclose(change, expected, atol=1e-4 * scale)


@pytest.mark.parametrize("local_content", [False, True])
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_masks_work_on_grids_of_unknown_size(local_content, causal):
    arguments = dict(scope_size=3, local_content=local_content)
    layer = build_layer(make_layer(**arguments), (None, None))
    images = keras.Input((None, None, CHANNELS))
    masks = keras.Input((None, None), dtype="bool")
    model = keras.Model(
        [images, masks], layer(images, mask=masks, use_causal_mask=causal)
    )
    inputs, mask = make_inputs((5, 3)), make_mask((2, 5, 3))
    assert_close(
        model([inputs, mask]),
        reference.call_layer(layer, inputs, padding=mask, causal=causal),
    )


@pytest.mark.parametrize("scale", [1, 100, 1000])
@all_layers
def test_causal_content_is_stable_when_early_keys_are_small(arguments, scale):
    """The first queries see only keys far below the largest of all."""
    layer = build_layer(make_layer(**arguments), (19,))
    inputs = make_inputs((19,)) * scale * np.linspace(-1, 1, 19)[:, None]
    assert_close(
        layer(inputs.astype("float32"), use_causal_mask=True),
        reference.call_layer(layer, inputs.astype("float32"), causal=True),
    )


@pytest.mark.parametrize(
    ("grid", "context_grid", "context_scale"),
    [
        ((7,), (7,), 1),
        ((14,), (7,), 0.5),
        ((5,), (15,), 3),
        ((9, 6), (3, 2), 1 / 3),
        ((3, 2), (6, 4), 2),
        ((4, 2, 6), (2, 1, 3), 0.5),
    ],
)
@all_layers
def test_context_on_a_related_grid_matches_reference(
    arguments, grid, context_grid, context_scale
):
    layer = make_layer(context_scale=context_scale, **arguments)
    inputs = make_inputs(grid)
    context = np.random.default_rng(5).normal(size=(2, *context_grid, 5))
    context = context.astype("float32")
    layer.build(inputs.shape, context.shape)
    reference.randomize_weights(layer)
    assert_close(
        layer(inputs, context), reference.call_layer(layer, inputs, context)
    )


def test_context_without_relation_matches_reference():
    layer = make_layer(use_position=False)
    inputs = make_inputs((5, 3))
    context = np.random.default_rng(5).normal(size=(2, 13, 11))
    context = context.astype("float32")
    mask = make_mask((2, 13))
    outputs = layer(inputs, context, context_mask=mask)
    assert_close(
        outputs,
        reference.call_layer(layer, inputs, context, padding=mask),
    )


@all_key_normalizations
def test_mask_of_pairs_with_a_context_of_another_rank_matches_reference(
    key_normalization,
):
    layer = make_layer(
        use_position=False,
        key_normalization=key_normalization,
        num_key_value_heads=2,
        intra_depth=3,
    )
    inputs = make_inputs((5, 3))
    context = np.random.default_rng(5).normal(size=(2, 17, 11))
    context = context.astype("float32")
    pairs, padding = make_mask((2, 5, 3, 17)), make_mask((2, 17), seed=4)
    layer.build(inputs.shape, context.shape)
    reference.randomize_weights(layer)
    assert_close(
        layer(inputs, context, mask=pairs, context_mask=padding),
        reference.call_layer(
            layer, inputs, context, pairs=pairs, padding=padding
        ),
    )


@all_grids
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_local_content_of_the_position_alone_matches_reference(grid, causal):
    layer = make_layer(scope_size=1, local_content=True, intra_depth=3)
    build_layer(layer, grid)
    inputs = make_inputs(grid)
    assert_close(
        layer(inputs, use_causal_mask=causal),
        reference.call_layer(layer, inputs, causal=causal),
    )


def test_local_content_of_a_context_of_another_step_matches_reference():
    """Grids of one size, of which one covers twice the ground."""
    layer = make_layer(
        scope_size=5, local_content=True, use_position=False, context_scale=2
    )
    inputs = make_inputs((7,))
    context = make_inputs((7,), seed=5)
    layer.build(inputs.shape, context.shape)
    reference.randomize_weights(layer)
    assert_close(
        layer(inputs, context), reference.call_layer(layer, inputs, context)
    )


def test_masks_of_keras_reach_the_layer_and_go_on():
    tokens = np.array([[3, 1, 4, 1, 5, 0, 0], [2, 7, 1, 0, 0, 0, 0]])
    embedded = keras.layers.Embedding(
        11, CHANNELS, embeddings_initializer="normal", mask_zero=True
    )
    embedded.build()
    reference.randomize_weights(embedded)
    embedded = embedded(tokens)
    layer = build_layer(make_layer(), (7,))
    outputs = layer(embedded)
    assert_close(
        outputs,
        reference.call_layer(
            layer, keras.ops.convert_to_numpy(embedded), padding=tokens != 0
        ),
    )
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(outputs._keras_mask), tokens != 0
    )
    queries = make_inputs((5, 3))
    layer = make_layer(use_position=False)
    outputs = layer(queries, embedded)
    assert_close(
        outputs,
        reference.call_layer(
            layer,
            queries,
            keras.ops.convert_to_numpy(embedded),
            padding=tokens != 0,
        ),
    )


def test_hidden_positions_do_not_count_in_the_batch_norm():
    layer = build_layer(make_layer(), (19,))
    inputs = make_inputs((19,))
    mask = make_mask((2, 19))
    changed = np.where(mask[..., None], inputs, 1000.0).astype("float32")
    outputs = layer(inputs, mask=mask, training=True)
    outputs_changed = layer(changed, mask=mask, training=True)
    seen = np.nonzero(mask)
    assert_close(
        keras.ops.convert_to_numpy(outputs_changed)[seen],
        keras.ops.convert_to_numpy(outputs)[seen],
    )


@all_layers
@all_key_normalizations
@pytest.mark.parametrize("parts", ["both", "content", "position"])
def test_steps_give_the_outputs_of_the_causal_call(
    arguments, key_normalization, parts
):
    layer = make_layer(
        key_normalization=key_normalization,
        use_content=parts != "position",
        use_position=parts != "content",
        intra_depth=3,
        num_key_value_heads=2,
        **arguments,
    )
    build_layer(layer, (19,))
    inputs = make_inputs((19,)) * np.linspace(1, 30, 19)[:, None]
    inputs = inputs.astype("float32")
    expected = keras.ops.convert_to_numpy(layer(inputs, use_causal_mask=True))
    state = layer.get_initial_state(batch_size=2)
    for position in range(19):
        shapes = [tuple(tensor.shape) for tensor in state]
        outputs, state = layer.step(inputs[:, position], state)
        assert [tuple(tensor.shape) for tensor in state] == shapes
        assert_close(outputs, expected[:, position])


@all_layers
def test_steps_in_a_loop_of_keras_keep_the_named_state(arguments):
    layer = make_layer(**arguments)
    build_layer(layer, (19,))
    inputs = make_inputs((19,))
    state = layer.get_initial_state(batch_size=2)

    def step(position, _, state):
        outputs, state = layer.step(
            keras.ops.take(inputs, position, axis=1), state
        )
        return position + 1, outputs, state

    expected = layer(inputs, use_causal_mask=True)
    _, outputs, last = keras.ops.while_loop(
        lambda position, *_: position < 19,
        step,
        (keras.ops.zeros((), "int32"), keras.ops.zeros((2, FILTERS)), state),
    )
    assert type(last) is type(state)
    assert state._fields == ("peaks", "totals", "lambdas", "keys", "values")
    assert_close(outputs, expected[:, -1])
    # Those who rebuild the structure may hand over a plain tuple.
    outputs, _ = layer.step(inputs[:, 0], tuple(state))
    assert_close(outputs, expected[:, 0])


def test_shared_embeddings_are_stored_once_and_stay_shared(tmp_path):
    embeddings = lambda_keras.PositionEmbeddings()
    images = keras.Input((5, 3, CHANNELS))
    hidden = make_layer(scope_size=3, position_embeddings=embeddings)(images)
    outputs = make_layer(scope_size=3, position_embeddings=embeddings)(hidden)
    model = keras.Model(images, outputs)
    for layer in model.layers:
        reference.randomize_weights(layer)
    tables = [w for w in model.weights if w.name == "table"]
    assert len(tables) == 1
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len([w for w in loaded.weights if w.name == "table"]) == 1
    first, second = loaded.layers[1:]
    assert first.position_embeddings is second.position_embeddings
    inputs = make_inputs((5, 3))
    assert_close(loaded(inputs), model(inputs))


def test_sharing_embeddings_of_another_shape_raises():
    embeddings = lambda_keras.PositionEmbeddings()
    build_layer(make_layer(scope_size=3, position_embeddings=embeddings), (5,))
    other = make_layer(scope_size=5, position_embeddings=embeddings)
    with pytest.raises(ValueError, match=r"\(3, 1, 1, 13\).*\(5, 1, 1, 13\)"):
        other.build((None, 5, CHANNELS))


@all_layers
def test_weights_explain_the_outputs(arguments):
    """Values times the weights, summed, are what the layer returns."""
    layer = make_layer(intra_depth=3, num_key_value_heads=1, **arguments)
    build_layer(layer, (5, 3))
    inputs = make_inputs((5, 3))
    for causal in (False, True):
        content, positions = layer.compute_weights(
            inputs, use_causal_mask=causal
        )
        values = layer.value_normalization(layer.value(inputs))
        values = keras.ops.reshape(values, (2, 15, 3, 11))
        outputs = keras.ops.einsum(
            "bnhmu,bmuv->bnhv", content + positions, values
        )
        assert_close(
            keras.ops.reshape(outputs, (2, 5, 3, FILTERS)),
            layer(inputs, use_causal_mask=causal),
        )


@pytest.mark.parametrize("scale", [1, 10, 100])
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_stays_finite_on_large_maps(precision, scale):
    layer = lambda_keras.LambdaConv(32, 23, dtype=precision)
    inputs = np.random.default_rng(0).normal(size=(1, 64, 64, 16)) * scale
    for training in (False, True):
        outputs = layer(inputs.astype("float32"), training=training)
        outputs = keras.ops.cast(outputs, "float32")
        assert np.all(np.isfinite(keras.ops.convert_to_numpy(outputs)))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_shape_and_mask_matches_reference(data):
    rank = data.draw(st.integers(1, 3), label="rank")
    sizes = st.integers(1, {1: 9, 2: 4, 3: 3}[rank])
    grid = tuple(data.draw(sizes) for _ in range(rank))
    num_heads = data.draw(st.sampled_from([1, 2, 6]), label="heads")
    groups = data.draw(
        st.sampled_from([g for g in (1, 2, 3, 6) if num_heads % g == 0])
    )
    arguments = dict(
        filters=num_heads * data.draw(st.integers(1, 3)),
        num_heads=num_heads,
        num_key_value_heads=groups,
        key_dim=data.draw(st.integers(1, 4)),
        intra_depth=data.draw(st.integers(1, 3)),
        key_normalization=data.draw(st.sampled_from(["softmax", "l2", None])),
    )
    if data.draw(st.booleans(), label="is_conv"):
        arguments["scope_size"] = data.draw(st.sampled_from([1, 3, 5]))
        arguments["local_content"] = data.draw(st.booleans())
    seed = data.draw(st.integers(0, 2**16), label="seed")
    share = data.draw(st.floats(0, 1), label="share")
    kind = data.draw(st.sampled_from(["none", "padding", "pairs"]))
    causal = data.draw(st.booleans(), label="causal")
    layer = build_layer(make_layer(**arguments), grid)
    inputs = make_inputs(grid, seed)
    padding = pairs = None
    if kind == "padding":
        padding = make_mask((2, *grid), seed, share)
    elif kind == "pairs":
        pairs = make_mask((2, *grid, *grid), seed, share)
    expected = reference.call_layer(
        layer, inputs, padding=padding, pairs=pairs, causal=causal
    )
    outputs = layer(
        inputs,
        mask=padding if pairs is None else pairs,
        use_causal_mask=causal,
    )
    scale = max(1.0, np.abs(expected).max())
    outputs = keras.ops.convert_to_numpy(outputs)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make_layer()(make_inputs((7,)), make_inputs((5,))),
            r"relation.*grids \(7,\) and \(5,\), context_scale=1",
        ),
        (
            lambda: make_layer(context_scale=0.5)(
                make_inputs((7,)), make_inputs((3,))
            ),
            r"relation.*context_scale=0.5",
        ),
        (
            lambda: make_layer(context_scale=1.5),
            r"whole number.*context_scale=1.5",
        ),
        (
            lambda: make_layer(use_position=False)(
                make_inputs((7,)), make_inputs((5,)), use_causal_mask=True
            ),
            r"same grid.*\(7,\) and \(5,\)",
        ),
        (
            lambda: make_layer()(
                make_inputs((5, 3)), mask=np.ones((2, 5, 3, 5))
            ),
            r"`mask` must have the shape.*\(2, 5, 3, 5\)",
        ),
        (
            lambda: make_layer(use_position=False)(
                make_inputs((5, 3)),
                make_inputs((17,)),
                mask=np.ones((2, 5, 3, 17, 1)),
            ),
            r"`mask` must have the shape.*\(2, 5, 3, 17, 1\).*\(2, 17, 7\)",
        ),
        (
            lambda: make_layer(
                scope_size=3, local_content=True, use_position=False
            )(make_inputs((5, 3)), make_inputs((17,))),
            r"`local_content` needs.*\(2, 5, 3, 7\).*\(2, 17, 7\)",
        ),
        (
            lambda: make_layer(key_normalization="l1"),
            r"`key_normalization` must be.*'l1'",
        ),
        (
            lambda: make_layer(num_heads=2, num_key_value_heads=3),
            r"num_heads=2, num_key_value_heads=3",
        ),
        (
            lambda: make_layer(use_content=False, use_position=False),
            r"content, of positions or of both",
        ),
        (
            lambda: build_layer(make_layer(), (5, 3)).get_initial_state(),
            r"built on sequences.*grid \(5, 3\)",
        ),
        (
            lambda: make_layer().get_initial_state(),
            r"built on sequences.*grid None",
        ),
        (
            lambda: build_layer(make_layer(), (5, 3))(make_inputs((3, 5))),
            r"grid that it was built on.*grid=\(3, 5\).*\(9, 5\) offsets",
        ),
    ],
    ids=[
        "unrelated_context",
        "wrong_scale",
        "fractional_scale",
        "causal_context",
        "mask_shape",
        "mask_shape_of_another_rank",
        "local_content_of_another_rank",
        "key_normalization",
        "groups",
        "no_part",
        "steps_on_images",
        "steps_before_build",
        "another_grid",
    ],
)
def test_bad_use_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call()
