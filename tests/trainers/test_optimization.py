"""The learning rate and the weight decay, in numbers."""

import keras
import numpy as np
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
    np.testing.assert_allclose(gradients[1], 0.25 * bias.numpy(), rtol=1e-6)
    assert (gamma.name, beta.name) == ("gamma", "beta")
    assert gradients[2:] == [None, None]
