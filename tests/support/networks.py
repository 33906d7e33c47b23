"""Small networks, each built once, and large ones without values."""

import functools

import keras

import lambda_keras
from tests.support import reference


def make_lambda_layer(filters):
    return lambda_keras.LambdaConv(filters, scope_size=5)


def build_small_network(
    image_size=16, num_classes=10, lambda_layer=make_lambda_layer, **kwargs
):
    """A network of 26 layers for small gray images, with random weights."""
    model = lambda_keras.build_lambda_resnet(
        26,
        None if image_size is None else (image_size, image_size, 1),
        num_classes,
        lambda_layer=lambda_layer,
        stem_strides=1,
        width_multiplier=0.125,
        **kwargs,
    )
    if kwargs.get("weights") is None:
        reference.randomize_weights(model)
    return model


# The same network for the same arguments: whoever changes it builds its own.
get_small_network = functools.cache(build_small_network)


def build_without_values(build, *args, **kwargs):
    """Builds a network whose weights have shapes, but were never drawn.

    Most of the time that a large network takes goes into its random weights.
    It is the network that `build` returns in any other respect.
    """
    with keras.StatelessScope(initialize_variables=False):
        model = build(*args, **kwargs)
    # Keras would draw them at the end of the next such scope.
    keras.utils.clear_session(free_memory=False)
    return model
