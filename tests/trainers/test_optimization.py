"""The learning rate and the weight decay, in numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers import optimization
from trainers import recipes


def test_learning_rate_warms_up_and_falls_to_zero():
    recipe = recipes.Recipe(epochs=10, warmup_epochs=2, learning_rate=0.5)
    schedule = optimization.make_learning_rate(recipe, steps_per_epoch=4)
    rates = [float(schedule(step)) for step in (0, 4, 8, 24, 40)]
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.25, 0], atol=1e-6)


def test_weight_decay_adds_its_multiple_of_the_weights_to_the_gradient():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(),
        ]
    )
    optimization.add_weight_decay(model, 0.25)
    for variable in model.trainable_variables:
        variable.assign(
            np.random.default_rng(0).normal(size=tuple(variable.shape))
        )
    with tf.GradientTape() as tape:
        loss = tf.add_n(model.losses)
    gradients = tape.gradient(
        loss, [variable.value for variable in model.trainable_variables]
    )
    kernel, bias, gamma, beta = model.trainable_variables
    np.testing.assert_allclose(gradients[0], 0.25 * kernel.numpy(), rtol=1e-6)
    names = (bias.name, gamma.name, beta.name)
    assert names == ("bias", "gamma", "beta")
    assert gradients[1:] == [None, None, None]


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_decoupled_decay_leaves_biases_and_normalizations_alone(optimizer):
    inputs = keras.Input((5,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False)(x))
    recipe = recipes.Recipe(
        optimizer=optimizer, learning_rate=0.5, weight_decay=0.25, epochs=1
    ).replace("test", warmup_epochs=0.0, learning_rate_decay="constant")
    optimization.compile_classifier(model, recipe, steps_per_epoch=1)
    assert model.losses == []
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    gradients = [np.zeros(v.shape) for v in model.trainable_variables]
    model.optimizer.apply(gradients, model.trainable_variables)
    values = {v.path: v.numpy() for v in model.trainable_variables}
    for path, value in values.items():
        expected = 1 - 0.5 * 0.25 if path.endswith("kernel") else 1
        np.testing.assert_allclose(value, expected, err_msg=path)


def test_rate_falls_to_a_tenth_three_times():
    recipe = recipes.Recipe(
        epochs=90,
        warmup_epochs=5,
        learning_rate=0.5,
        learning_rate_decay="step",
    )
    schedule = optimization.make_learning_rate(recipe, steps_per_epoch=10)
    rates = [
        float(schedule(step))
        for step in (0, 25, 50, 299, 300, 599, 600, 799, 800, 899)
    ]
    expected = [0, 0.25, 0.5, 0.5, 0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-4]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_constant_rate_without_a_warm_up_is_constant():
    recipe = recipes.Recipe(
        warmup_epochs=0, learning_rate=0.5, learning_rate_decay="constant"
    )
    schedule = optimization.make_learning_rate(recipe, steps_per_epoch=10)
    assert [float(schedule(step)) for step in (0, 899)] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"nesterov": True}, {"nesterov": True, "momentum": 0.9}),
        (
            {"optimizer": "rmsprop", "momentum": 0.8},
            {"momentum": 0.8, "rho": 0.9},
        ),
        ({"global_clipnorm": 2.0}, {"global_clipnorm": 2.0}),
        ({}, {"global_clipnorm": None, "nesterov": False}),
    ],
)
def test_optimizer_is_as_the_recipe_says(values, expected):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    optimizer = optimization.make_optimizer(
        model, recipes.Recipe(**values), steps_per_epoch=1
    )
    assert {name: getattr(optimizer, name) for name in expected} == expected
