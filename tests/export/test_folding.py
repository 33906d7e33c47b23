import keras
import numpy as np
import pytest

import lambda_keras
from export.folding import fold_batch_normalizations

TOLERANCE = 1e-5


def draw_weights(model):
    """Gives a model weights that are none of those of a new one."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        *fan_in, _ = weight.shape
        scale = np.prod(fan_in) ** -0.5
        weight.assign(
            random.normal(0, scale, weight.shape)
            if fan_in
            else random.uniform(0.5, 1.5, weight.shape)
        )


def count_normalizations(model):
    return sum(
        isinstance(layer, keras.layers.BatchNormalization)
        for layer in model._flatten_layers()
    )


def check_folding(model, expected_count):
    """Checks what a folded model returns, and what is left in it."""
    shape = (3, *model.input_shape[1:])
    images = np.random.default_rng(1).normal(size=shape).astype("float32")
    expected = keras.ops.convert_to_numpy(model(images))
    assert np.std(expected) > 0.01
    folded = fold_batch_normalizations(model)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(folded(images), expected, atol=TOLERANCE * scale)
    assert count_normalizations(folded) == expected_count
    return folded


@pytest.mark.parametrize(
    ("layout", "architecture", "expected_count"),
    [
        # Two in each lambda layer, and one behind it. With
        # squeeze-and-excitation.
        ("CCLL", "rs", 4 * 3),
        ("LLLL", "tiered", 8 * 3),
    ],
)
def test_folded_network_is_the_same(layout, architecture, expected_count):
    # One step in training mode then sets the statistics.
    normalization = keras.layers.BatchNormalization(momentum=0.0)
    model = lambda_keras.build_lambda_resnet(
        26,
        (32, 32, 3),
        5,
        layout=layout,
        architecture=architecture,
        width_multiplier=1 / 8,
        lambda_layer=lambda filters: lambda_keras.LambdaConv(
            filters, scope_size=5, normalization=normalization
        ),
        normalization=normalization,
        classifier_activation=None,
    )
    draw_weights(model)
    random = np.random.default_rng(2)
    model(random.normal(size=(8, 32, 32, 3)), training=True)
    check_folding(model, expected_count)


def build(*layers):
    """Builds a model of one layer after the other."""
    inputs = outputs = keras.Input((8, 8, 4))
    for layer in layers:
        outputs = layer(outputs)
    model = keras.Model(inputs, outputs)
    draw_weights(model)
    return model


@pytest.mark.parametrize(
    "projection",
    [
        keras.layers.Conv2D(6, 3, padding="same"),
        keras.layers.Conv2D(6, 3, groups=2, use_bias=False),
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        keras.layers.Dense(6),
    ],
    ids=lambda layer: layer.name,
)
@pytest.mark.parametrize("scaled", [True, False])
def test_normalization_is_folded_into(projection, scaled):
    projection = type(projection).from_config(projection.get_config())
    normalization = keras.layers.BatchNormalization(scale=scaled, center=scaled)
    model = build(projection, normalization, keras.layers.ReLU())
    folded = check_folding(model, 0)
    # The model that was folded can go on.
    assert model.get_layer(projection.name).output.shape[-1] in (6, 8)
    assert len(folded.layers) == len(model.layers) - 1


@pytest.mark.parametrize(
    "layers",
    [
        [
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Conv2D(6, 3, padding="same"),
        ],
        [
            keras.layers.Conv2D(6, 3, activation="relu"),
            keras.layers.BatchNormalization(),
        ],
        [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(axis=1)],
        [
            keras.Sequential(
                [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
            )
        ],
    ],
    ids=["before", "behind an activation", "of rows", "sequential"],
)
def test_normalization_of_something_else_stays(layers):
    check_folding(build(*layers), 1)


def test_layers_of_several_users_stay():
    inputs = keras.Input((8, 8, 4))
    projection = keras.layers.Dense(4)
    x = projection(inputs)
    y = keras.layers.BatchNormalization()(x)
    used_twice = keras.Model(inputs, x + y)
    draw_weights(used_twice)
    check_folding(used_twice, 1)
    called_twice = keras.Model(inputs, projection(y))
    draw_weights(called_twice)
    check_folding(called_twice, 1)


def test_normalization_by_the_batch_stays():
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Dense(4)(inputs)
    x = keras.layers.BatchNormalization(momentum=1.0)(x, training=True)
    model = keras.Model(inputs, x)
    draw_weights(model)
    check_folding(model, 1)


def test_model_in_a_model_is_folded():
    inner = build(keras.layers.Conv2D(5, 3), keras.layers.BatchNormalization())
    check_folding(build(keras.layers.Rescaling(2.0), inner), 0)
