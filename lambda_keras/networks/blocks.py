"""The parts of a ResNet as functions from a tensor to a tensor.

Padding is symmetric, as in the original ResNet: "same" padding would shift
strided convolutions by half a pixel on even sizes.
"""

from typing import Any
from typing import NamedTuple

import keras
from keras import ops

from lambda_keras.networks.places import make_lambda_layer
from lambda_keras.normalization import make_normalization


class Style(NamedTuple):
    """What all blocks of a network have in common.

    Attributes:
        normalization: as in `build_lambda_resnet`.
        activation: name of the activation.
        shortcut_pools: whether the stride of a shortcut is a 2x2 average pool
            before its convolution (ResNet-D and ResNet-RS) rather than one of
            the convolution.
        lambda_pool_size: 3 or 2. Width of the pool after a strided lambda
            layer.
        squeeze_excite_ratio: as `ratio` in `squeeze_and_excite`. 0 for none.
    """

    normalization: Any
    activation: str
    shortcut_pools: bool
    lambda_pool_size: int
    squeeze_excite_ratio: float


def convolve(
    inputs,
    filters,
    kernel_size,
    strides=1,
    *,
    style,
    name,
    gamma_initializer=None,
):
    """Convolves without bias and normalizes.

    Args:
        inputs: `(batch_size, height, width, channels)`.
        filters: int. Number of output channels.
        kernel_size: int. Odd width of the kernel.
        strides: int.
        style: `Style`, of which the normalization is used.
        name: prefix of the layers' names.
        gamma_initializer: initializer of the normalization's scale.

    Returns:
        `(batch_size, ceil(height / strides), ceil(width / strides), filters)`.
    """
    x = inputs
    if kernel_size > 1 and strides > 1:
        x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    x = keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same" if strides == 1 else "valid",
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(
            scale=2.0, mode="fan_out", distribution="truncated_normal"
        ),
        name=f"{name}_conv",
    )(x)
    return make_normalization(
        style.normalization,
        name=f"{name}_normalization",
        gamma_initializer=gamma_initializer,
    )(x)


def activate(inputs, style, *, name):
    """Applies the activation of a style, in a layer that bears its name."""
    activation = style.activation
    layer = keras.layers.Activation(activation, name=f"{name}_{activation}")
    return layer(inputs)


def build_classic_stem(inputs, filters, *, strides, style):
    """Applies the stem of the first ResNet: a 7x7 convolution, a max pool.

    Args:
        inputs: `(batch_size, height, width, channels)`.
        filters: int. Number of output channels.
        strides: 4, 2 (no max pool) or 1 (a 3x3 convolution instead).
        style: `Style`.

    Returns:
        `(batch_size, ceil(height / strides), ceil(width / strides), filters)`.

    Reference:
        - [He et al., 2016](https://arxiv.org/abs/1512.03385)
    """
    x = convolve(
        inputs,
        filters,
        kernel_size=3 if strides == 1 else 7,
        strides=min(strides, 2),
        style=style,
        name="stem",
    )
    x = activate(x, style, name="stem")
    return _pool_stem(x) if strides == 4 else x


def build_tiered_stem(inputs, filters, *, strides, style):
    """Applies timm's tiered stem: three 3x3 convolutions, a max pool.

    Args:
        inputs: `(batch_size, height, width, channels)`.
        filters: int. Number of output channels, a multiple of 8.
        strides: 4, 2 or 1 (both without the max pool).
        style: `Style`.

    Returns:
        `(batch_size, ceil(height / strides), ceil(width / strides), filters)`.

    Reference:
        - [timm](https://github.com/huggingface/pytorch-image-models)
    """
    x = inputs
    for tier, eighths in enumerate((3, 4, 8), start=1):
        x = convolve(
            x,
            filters * eighths // 8,
            kernel_size=3,
            strides=min(strides, 2) if tier == 1 else 1,
            style=style,
            name=f"stem_tier{tier}",
        )
        x = activate(x, style, name=f"stem_tier{tier}")
    return _pool_stem(x) if strides == 4 else x


def _pool_stem(inputs):
    # A border of zeros would exceed what some activations return. The maximum
    # over a window does not change if what is at its edge is there twice.
    margins = [[0, 0], [1, 1], [1, 1], [0, 0]]
    x = ops.pad(inputs, margins, mode="symmetric")
    return keras.layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)


def build_deep_stem(inputs, filters, *, strides, style):
    """Applies the stem of ResNet-RS: four 3x3 convolutions.

    Args:
        inputs: `(batch_size, height, width, channels)`.
        filters: int. Number of output channels.
        strides: 4, 2 or 1 (both without the last convolution).
        style: `Style`.

    Returns:
        `(batch_size, ceil(height / strides), ceil(width / strides), filters)`.

    Reference:
        - [Bello et al., 2021](https://arxiv.org/abs/2103.07579)
    """
    widths = [(filters // 2, min(strides, 2)), (filters // 2, 1), (filters, 1)]
    if strides == 4:
        widths.append((filters, 2))
    x = inputs
    for number, (width, stride) in enumerate(widths, start=1):
        x = convolve(
            x,
            width,
            kernel_size=3,
            strides=stride,
            style=style,
            name=f"stem_{number}",
        )
        x = activate(x, style, name=f"stem_{number}")
    return x


def build_shortcut(inputs, filters, *, strides, style, name):
    """Brings a block's input to the shape of its output.

    Args:
        inputs: `(batch_size, height, width, channels)`.
        filters: int. Number of output channels.
        strides: 1 or 2.
        style: `Style`.
        name: prefix of the layers' names.

    Returns:
        `(batch_size, ceil(height / strides), ceil(width / strides), filters)`;
        the inputs themselves where they have that shape.
    """
    if strides == 1 and inputs.shape[-1] == filters:
        return inputs
    x, name = inputs, f"{name}_shortcut"
    if style.shortcut_pools and strides > 1:
        x = keras.layers.AveragePooling2D(
            strides, padding="same", name=f"{name}_pool"
        )(x)
        strides = 1
    return convolve(x, filters, 1, strides, style=style, name=name)


def squeeze_and_excite(inputs, *, ratio, name):
    """Scales the channels by a gate computed from their means.

    Args:
        inputs: `(batch_size, height, width, channels)`.
        ratio: float. Width of the hidden layer over the number of channels.
        name: prefix of the layers' names.

    Returns:
        The shape of the inputs.

    Reference:
        - [Hu et al., 2018](https://arxiv.org/abs/1709.01507)
    """
    channels = inputs.shape[-1]
    gate = keras.layers.GlobalAveragePooling2D(
        keepdims=True, name=f"{name}_squeeze"
    )(inputs)
    gate = keras.layers.Conv2D(
        max(1, int(channels * ratio)),
        1,
        activation="relu",
        name=f"{name}_squeeze_conv",
    )(gate)
    gate = keras.layers.Conv2D(
        channels, 1, activation="sigmoid", name=f"{name}_excite_conv"
    )(gate)
    return keras.layers.Multiply(name=f"{name}_excite")([inputs, gate])


def build_bottleneck(
    inputs, filters, *, strides, lambda_layer, drop_rate, style, name
):
    """Applies a bottleneck block, with or without a lambda layer.

    Args:
        inputs: `(batch_size, height, width, channels)`.
        filters: int. Width of the bottleneck; the block returns four times
            that.
        strides: 1 or 2.
        lambda_layer: function `filters -> layer` or `filters, name -> layer`,
            `None` for a convolution in its place.
        drop_rate: float. Probability that an example skips the block's
            residual branch in training (stochastic depth).
        style: `Style`.
        name: prefix of the layers' names.

    Returns:
        `(batch_size, ceil(height / strides), ceil(width / strides),
        4 * filters)`, before the block's last activation.

    Reference:
        - [He et al., 2016](https://arxiv.org/abs/1512.03385)
        - [Huang et al., 2016](https://arxiv.org/abs/1603.09382)
        - [Bello, 2021](https://arxiv.org/abs/2102.08602)
    """
    shortcut = build_shortcut(
        inputs, 4 * filters, strides=strides, style=style, name=name
    )
    x = convolve(inputs, filters, 1, style=style, name=f"{name}_1")
    x = activate(x, style, name=f"{name}_1")
    if lambda_layer is None:
        x = convolve(x, filters, 3, strides, style=style, name=f"{name}_2")
    else:
        x = apply_lambda_layer(
            x, lambda_layer, strides=strides, style=style, name=name
        )
    x = activate(x, style, name=f"{name}_2")
    x = convolve(
        x,
        4 * filters,
        kernel_size=1,
        style=style,
        # Each block begins as the identity.
        gamma_initializer="zeros",
        name=f"{name}_3",
    )
    if style.squeeze_excite_ratio:
        x = squeeze_and_excite(x, ratio=style.squeeze_excite_ratio, name=name)
    if drop_rate:
        x = keras.layers.Dropout(
            drop_rate, noise_shape=(None, 1, 1, 1), name=f"{name}_drop"
        )(x)
    return keras.layers.Add(name=f"{name}_add")([shortcut, x])


def apply_lambda_layer(inputs, lambda_layer, *, strides, style, name):
    """Applies what stands for the 3x3 convolution of a block; normalizes.

    Lambda layers have no stride. Where the convolution has one, an average
    pool follows the lambda layer (Bello, 2021, appendix E.1).

    Args:
        inputs: `(batch_size, height, width, filters)`.
        lambda_layer: as in `build_bottleneck`.
        strides: 1 or 2.
        style: `Style`.
        name: name of the block.

    Returns:
        `(batch_size, ceil(height / strides), ceil(width / strides), filters)`.
    """
    layer = make_lambda_layer(lambda_layer, inputs.shape[-1], name)
    x = layer(inputs)
    if strides > 1:
        x = _pool_average(x, style.lambda_pool_size, name=f"{name}_2")
    return make_normalization(
        style.normalization, name=f"{name}_2_normalization"
    )(x)


def _pool_average(inputs, size, *, name):
    """Halves a map by averages over windows of 3x3, zeros around, or 2x2."""
    if size == 2:
        return keras.layers.AveragePooling2D(
            2, padding="same", name=f"{name}_pool"
        )(inputs)
    x = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(inputs)
    return keras.layers.AveragePooling2D(size, 2, name=f"{name}_pool")(x)


def build_head(
    inputs, *, num_classes, include_top, pooling, dropout_rate, activation
):
    """Applies what ends a network: a pool, and a classifier.

    Args:
        inputs: `(batch_size, height, width, channels)`.
        num_classes: int. Size of the classifier.
        include_top: whether there is one; it classifies means.
        pooling: as in `build_lambda_resnet`, where there is none.
        dropout_rate: float. Dropout before the classifier.
        activation: activation of the classifier, `None` for logits.

    Returns:
        `(batch_size, num_classes)`; `(batch_size, channels)` without a
        classifier; the inputs themselves without a pool too.
    """
    x = inputs
    if include_top or pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="pool")(x)
    if not include_top:
        return x
    if dropout_rate:
        x = keras.layers.Dropout(dropout_rate, name="dropout")(x)
    return keras.layers.Dense(
        num_classes,
        activation=activation,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        # Probabilities and losses need float32 in mixed precision too.
        dtype="float32",
        name="predictions",
    )(x)
