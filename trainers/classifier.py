"""The network that is trained."""

import functools
import math

import keras

import lambda_keras
from lambda_keras.networks import lambda_resnet
from lambda_keras.networks import weights as weights_module
from trainers.program import UserError
from trainers.recipes import Recipe

_NUM_HEADS = 4


def check_width(recipe: Recipe) -> None:
    """Checks that the layers of a network can be as wide as a recipe says.

    Args:
        recipe: names the network.

    Raises:
        UserError: If there would be too few channels, or a number of them
            that the heads of a lambda layer cannot share.
    """
    if not math.isfinite(512 * recipe.width_multiplier):
        return
    placement = lambda_resnet.place_lambda_layers(
        recipe.depth, recipe.layout, recipe.architecture
    )
    width = recipe.width_multiplier
    # The first convolution of a tiered stem has 3/8 of them.
    least = 3 if recipe.architecture == "tiered" else 2
    # No heads share what has no lambda layers.
    divisors = {
        64 * 2**number: _NUM_HEADS if any(stage) else 1
        for number, stage in enumerate(placement)
    }
    if round(64 * width) < least or any(
        round(filters * width) % divisor
        for filters, divisor in divisors.items()
    ):
        raise UserError(
            f"--width_multiplier must leave at least {least} of the stem's 64 "
            f"channels, and in stages with lambda layers a multiple of "
            f"{_NUM_HEADS}, the number of heads; try "
            f"{max(1, round(16 * width)) / 16}. "
            f"Received: --width_multiplier={width}"
        )


def build_classifier(
    recipe: Recipe,
    *,
    channels: int,
    num_classes: int,
    synchronized: bool = False,
) -> keras.Model:
    """Builds a LambdaResNet that takes images as they come from a file.

    Args:
        recipe: names the network and the size of its images.
        channels: 1 for grayscale or 3 for colors.
        num_classes: number of classes.
        synchronized: whether batch normalization averages over all devices.

    Returns:
        A model from images, `(batch_size, image_size, image_size, channels)`,
        0 to 255, to logits, `(batch_size, num_classes)`.

    Raises:
        ValueError: If there is no such network.
    """
    normalization = keras.layers.BatchNormalization(
        momentum=recipe.batch_norm_momentum,
        epsilon=1e-5,
        synchronized=synchronized,
    )
    input_shape = (recipe.image_size, recipe.image_size, channels)
    network = lambda_keras.build_lambda_resnet(
        recipe.depth,
        input_shape,
        num_classes,
        layout=recipe.layout,
        architecture=recipe.architecture,
        lambda_layer=functools.partial(
            lambda_keras.LambdaConv,
            scope_size=recipe.scope_size,
            num_heads=_NUM_HEADS,
            normalization=normalization,
        ),
        classifier_activation=None,
        dropout_rate=recipe.dropout_rate,
        stochastic_depth_rate=recipe.stochastic_depth_rate,
        width_multiplier=recipe.width_multiplier,
        stem_strides=recipe.stem_strides,
        normalization=normalization,
    )
    images = keras.Input(input_shape, name="images")
    # Half precision does not hold all that lies between two gray levels.
    rescaled = keras.layers.Rescaling(
        1 / 127.5, offset=-1.0, dtype="float32", name="rescaling"
    )(images)
    return keras.Model(images, network(rescaled), name=f"{network.name}_logits")


def load_weights(model: keras.Model, weights: str) -> bool:
    """Gives a classifier the weights of a trained one.

    Args:
        model: what `build_classifier` returns.
        weights: path of a `.keras` file of the same network at any image size,
            or of a checkpoint of timm.

    Returns:
        Whether the classifier's weights are among them: not if those are for
        another number of classes.

    Raises:
        ValueError: If they are those of another network.
        OSError: If there is no such file.
    """
    network = get_network(model)
    try:
        weights_module.load_weights(network, weights)
        return True
    except ValueError:
        features = keras.Model(
            network.input, network.get_layer("predictions").input
        )
        weights_module.load_weights(features, weights)
        return False


def freeze_stages(model: keras.Model, stages: int) -> None:
    """Keeps the first parts of a classifier as they are in training.

    Batch normalization in them does as in inference.

    Args:
        model: what `build_classifier` returns.
        stages: 0 for none, 1 for the stem, 2 to 5 for the stages up to `c2` to
            `c5` too.
    """
    if not stages:
        return
    layers = get_network(model).layers
    names = [layer.name for layer in layers]
    # The stem ends where the first block of c2 begins.
    ends = [next(n for n, name in enumerate(names) if name.startswith("c2_"))]
    ends += [names.index(f"c{number}") + 1 for number in range(2, 6)]
    for layer in layers[: ends[stages - 1]]:
        layer.trainable = False


def get_network(model: keras.Model) -> keras.Model:
    """Returns the network within a classifier, without what precedes it."""
    return model.layers[-1]
