"""The network that is trained."""

import functools

import keras

import lambda_keras
from trainers.recipes import Recipe


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
        momentum=0.9, epsilon=1e-5, synchronized=synchronized
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
