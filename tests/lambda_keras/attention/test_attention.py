"""The attention layers: equal to loops, with their gradients, of any size."""

import keras
import numpy as np
import pytest
from keras import ops

import lambda_keras
from lambda_keras import attention
from tests.support import attention_reference

# Different primes, so that no axis can stand for another.
_IMAGE = (2, 5, 3, 7)

CASES = {
    "relative_image": (
        attention.RelativeSelfAttention(22, num_heads=2, key_dim=13),
        attention_reference.call_relative,
        _IMAGE,
    ),
    "relative_sequence": (
        attention.RelativeSelfAttention(22, num_heads=2, key_dim=13),
        attention_reference.call_relative,
        (2, 17, 7),
    ),
    "relative_volume": (
        attention.RelativeSelfAttention(22, num_heads=2, key_dim=13),
        attention_reference.call_relative,
        (2, 3, 5, 2, 7),
    ),
    "relative_pixel": (
        attention.RelativeSelfAttention(22, num_heads=2),
        attention_reference.call_relative,
        (2, 1, 1, 7),
    ),
    "axial": (
        attention.AxialSelfAttention(22, num_heads=2, key_dim=13),
        attention_reference.call_axial,
        _IMAGE,
    ),
    "local_within_window": (
        attention.LocalSelfAttention(22, num_heads=2, key_dim=14),
        attention_reference.call_local,
        _IMAGE,
    ),
    "local_beyond_window": (
        attention.LocalSelfAttention(
            22, window_size=3, num_heads=2, key_dim=14
        ),
        attention_reference.call_local,
        (2, 11, 5, 7),
    ),
    "local_whole_blocks": (
        attention.LocalSelfAttention(
            22, window_size=3, num_heads=2, key_dim=14
        ),
        attention_reference.call_local,
        (2, 6, 9, 7),
    ),
    "linear_image": (
        attention.LinearAttention(22, num_heads=2, key_dim=13),
        attention_reference.call_linear,
        _IMAGE,
    ),
    "linear_pixel": (
        attention.LinearAttention(22, num_heads=2, key_dim=1),
        attention_reference.call_linear,
        (2, 1, 1, 7),
    ),
    "linear_sequence": (
        attention.LinearAttention(22, num_heads=2, key_dim=13),
        attention_reference.call_linear,
        (2, 17, 7),
    ),
    "augmented": (
        attention.AttentionAugmentedConv2D(
            29, kernel_size=3, num_heads=2, key_dim=13, value_dim=11
        ),
        attention_reference.call_augmented,
        _IMAGE,
    ),
}


def randomize(layer, inputs_shape):
    """Builds a copy of a layer with scores that tell positions well apart."""
    layer = type(layer).from_config(layer.get_config())
    layer.build(inputs_shape)
    generator = np.random.default_rng(3)
    for weight in layer.weights:
        scale = 1.0 if "table" in weight.name else weight.shape[-2] ** -0.5
        weight.assign(generator.normal(0, scale, size=weight.shape))
    return layer


def make_inputs(shape):
    return np.random.default_rng(5).normal(size=shape).astype("float32")


each_case = pytest.mark.parametrize(
    ("layer", "call_reference", "shape"), CASES.values(), ids=CASES
)


@each_case
def test_layer_equals_the_loops(layer, call_reference, shape):
    layer = randomize(layer, shape)
    inputs = make_inputs(shape)
    outputs = ops.convert_to_numpy(layer(inputs))
    np.testing.assert_allclose(
        outputs, call_reference(layer, inputs), rtol=1e-4, atol=1e-5
    )


# Queries and keys have 2 * 13 channels, values 2 * 11; so with every other key
# depth below. Projections, scores by content and by offsets, sums of values.
MULTIPLY_ADDS = {
    "relative_image": 15 * (7 * 74 + 15 * 26 + (5 + 3) * 26 + 15 * 22),
    "relative_sequence": 17 * (7 * 74 + 17 * 26 + 17 * 26 + 17 * 22),
    "relative_volume": 30 * (7 * 74 + 30 * 26 + (3 + 5 + 2) * 26 + 30 * 22),
    "relative_pixel": 7 * 66 + 22 + 2 * 22 + 22,
    "axial": (
        3 * 5 * (7 * 74 + 5 * 26 + 5 * 26 + 5 * 22)
        + 5 * 3 * (22 * 74 + 3 * 26 + 3 * 26 + 3 * 22)
    ),
    "local_within_window": 15 * (7 * 78 + 49 * 28 + 14 * 14 + 49 * 22),
    "local_beyond_window": 55 * (7 * 78 + 9 * 28 + 6 * 14 + 9 * 22),
    "local_whole_blocks": 54 * (7 * 78 + 9 * 28 + 6 * 14 + 9 * 22),
    "linear_image": 15 * 7 * 74 + 2 * 13 * 11 * (15 + 15),
    "linear_pixel": 7 * 26 + 2 * 1 * 11 * (1 + 1),
    "linear_sequence": 17 * 7 * 74 + 2 * 13 * 11 * (17 + 17),
    "augmented": (
        15 * 9 * 7 * 7
        + 15 * (7 * 74 + 15 * 26 + (5 + 3) * 26 + 15 * 22)
        + 15 * 22 * 22
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_multiply_adds_are_those_worked_out_by_hand(name):
    layer, _, shape = CASES[name]
    layer = type(layer).from_config(layer.get_config())
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, layer(inputs))
    assert lambda_keras.count_multiply_adds(model) == MULTIPLY_ADDS[name]


@pytest.mark.slow
@each_case
def test_gradients_equal_differences_of_the_loops(layer, call_reference, shape):
    layer = randomize(layer, shape)
    inputs = make_inputs(shape)
    targets = np.random.default_rng(9).normal(size=layer(inputs).shape)
    before = layer.get_weights()
    generator = np.random.default_rng(11)
    directions = [generator.normal(size=weight.shape) for weight in before]

    def compute_loss(step):
        layer.set_weights(
            [
                weight + step * direction
                for weight, direction in zip(before, directions, strict=True)
            ]
        )
        return np.mean((call_reference(layer, inputs) - targets) ** 2)

    expected = (compute_loss(1e-3) - compute_loss(-1e-3)) / 2e-3
    layer.set_weights(before)
    model = keras.Sequential([layer])
    model.compile(keras.optimizers.SGD(1.0), loss="mse")
    model.train_on_batch(inputs, targets)
    slope = sum(
        np.sum((old - new) * direction)
        for old, new, direction in zip(
            before, layer.get_weights(), directions, strict=True
        )
    )
    np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        attention.LocalSelfAttention(22, num_heads=1, window_size=3),
        attention.LinearAttention(22, num_heads=2),
    ],
    ids=["local", "linear"],
)
def test_one_layer_takes_images_of_every_size(layer):
    inputs = keras.Input((None, None, 7))
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, None, None, 22)
    for shape in ((2, 5, 3, 7), (3, 1, 13, 7), (1, 2, 2, 7)):
        images = make_inputs(shape)
        of_known_size = keras.Model(
            known := keras.Input(shape[1:]), layer(known)
        )
        np.testing.assert_allclose(
            model.predict(images, verbose=0),
            of_known_size.predict(images, verbose=0),
            rtol=1e-5,
            atol=1e-5,
        )


def test_local_attention_sees_no_further_than_its_window():
    layer = randomize(attention.LocalSelfAttention(22, 5, 1), (1, 13, 11, 7))
    images = make_inputs((1, 13, 11, 7))
    changed = images.copy()
    changed[0, 4, 6] += 1.0
    difference = ops.convert_to_numpy(layer(changed) - layer(images))[0]
    rows, columns = np.nonzero(np.abs(difference).max(axis=-1))
    assert (set(rows), set(columns)) == ({2, 3, 4, 5, 6}, {4, 5, 6, 7, 8})
    assert len(rows) == 25


def test_local_attention_moves_with_its_image():
    layer = randomize(attention.LocalSelfAttention(22, 3, 1), (1, 17, 13, 7))
    images = make_inputs((1, 17, 13, 7))
    moved = np.roll(images, (2, 1), axis=(1, 2))
    outputs, moved_outputs = (
        ops.convert_to_numpy(layer(inputs)) for inputs in (images, moved)
    )
    np.testing.assert_allclose(
        moved_outputs[:, 4:-1, 3:-1],
        outputs[:, 2:-3, 2:-2],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (attention.RelativeSelfAttention, (2, None, 3, 8), "known size"),
        (attention.AxialSelfAttention, (2, None, 3, 8), "known size"),
        (attention.AxialSelfAttention, (2, 3, 8), "images"),
        (attention.AttentionAugmentedConv2D, (2, 3, None, 8), "known size"),
        (attention.LocalSelfAttention, (2, 3, 8), "images"),
        (attention.LinearAttention, (2, 3, 5, None), "known size"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_impossible_inputs_raise(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer(64).build(shape)


@pytest.mark.parametrize(
    ("layer", "arguments", "message"),
    [
        (attention.RelativeSelfAttention, dict(filters=12), "divisible"),
        (attention.AxialSelfAttention, dict(filters=12), "divisible"),
        (attention.LinearAttention, dict(filters=8, key_dim=0), "key_dim=0"),
        (
            attention.LocalSelfAttention,
            dict(filters=64, window_size=4),
            "window_size=4",
        ),
        (attention.LocalSelfAttention, dict(filters=24), "key_dim=3"),
        (
            attention.AttentionAugmentedConv2D,
            dict(filters=16, value_dim=2),
            "value_dim=2",
        ),
        (
            attention.AttentionAugmentedConv2D,
            dict(filters=16, num_heads=0),
            "num_heads=0",
        ),
    ],
)
def test_impossible_arguments_raise(layer, arguments, message):
    with pytest.raises(ValueError, match=message):
        layer(**arguments)
