"""LambdaResNets and the ResNets that they are compared with."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import keras

from lambda_keras.checks import check_choice
from lambda_keras.checks import check_positive_integers
from lambda_keras.lambda_conv import LambdaConv
from lambda_keras.networks import blocks
from lambda_keras.networks.blocks import Style
from lambda_keras.networks.weights import load_weights
from lambda_keras.normalization import standardize_normalization

_STAGES = ("c2", "c3", "c4", "c5")

# depth: (blocks in c2 to c5, positions from 1 of the lambda layers in c4).
# Block counts: Bello et al., 2021 (ResNet-RS); 14 and 26 are the usual small
# ones. In c4 of the hybrids, the number of lambda layers is that of Bello,
# 2021, appendix E.1, where every block of c5 has one and c2 and c3 have none.
DEPTHS = {
    14: ((1, 1, 1, 1), (1,)),
    26: ((2, 2, 2, 2), (2,)),
    50: ((3, 4, 6, 3), (3,)),
    101: ((3, 4, 23, 3), (6, 12, 18)),
    152: ((3, 8, 36, 3), (5, 10, 15, 20, 25, 30)),
    200: ((3, 24, 36, 3), (5, 10, 15, 20, 25, 30)),
    270: ((4, 29, 53, 4), (8, 16, 24, 32, 40, 48)),
    350: ((4, 36, 72, 4), (10, 20, 30, 40, 50, 60)),
    420: ((4, 44, 87, 4), (10, 20, 30, 40, 50, 60, 70, 80)),
}


class _Architecture(NamedTuple):
    """What surrounds the blocks' convolutions and lambda layers."""

    build_stem: Callable
    shortcut_pools: bool
    squeeze_excite_ratio: float
    lambda_pool_size: int


ARCHITECTURES = {
    "rs": _Architecture(blocks.build_deep_stem, True, 0.25, 3),
    "v1": _Architecture(blocks.build_classic_stem, False, 0, 3),
    "tiered": _Architecture(blocks.build_tiered_stem, False, 0, 2),
}


def build_lambda_resnet(
    depth=50,
    input_shape=None,
    num_classes=1000,
    *,
    layout=None,
    architecture="rs",
    lambda_layer=None,
    squeeze_excite_ratio=None,
    activation="relu",
    weights=None,
    include_top=True,
    input_tensor=None,
    pooling=None,
    classifier_activation="softmax",
    dropout_rate=0.0,
    stochastic_depth_rate=0.0,
    width_multiplier=1.0,
    stem_strides=4,
    normalization="batch",
    name=None,
):
    """Builds a LambdaResNet, or a ResNet of the same parts.

    With nothing else said, the LambdaResNet of the paper: ResNet-RS with
    lambda layers in some blocks of c4 and in all of c5, and squeeze-and-excite
    in c2 and c3.

    The last activations of the four stages are named `"c2"` to `"c5"`:
    `model.get_layer("c4").output`.

    Args:
        depth: int. 14, 26, 50, 101, 152, 200, 270, 350 or 420.
        input_shape: `(height, width, channels)`. Height and width may be
            `None` if the lambda layers allow it, as `LambdaConv` does.
            Defaults to the shape of `input_tensor`, or to `(224, 224, 3)`.
        num_classes: int. Size of the last layer.
        layout: four letters, one per stage from c2 to c5: `C` for
            convolutions, `L` for a lambda layer in every block. `"CCLL"` with
            the architecture `"rs"` is the paper's LambdaResNet-C4, `"CCCC"` is
            ResNet-RS. A sequence of four strings may have one letter per
            block of a stage, as in `("C", "C", "CCLCCC", "L")`. Defaults to
            `"LLLL"` for `"v1"` and to the paper's hybrid for the others.
        architecture: `"rs"` for the stem and shortcuts of ResNet-RS and
            squeeze-and-excite in the stages without lambda layers, `"v1"`
            for the first ResNet, as in the paper's Tables 3, 4 and 12, or
            `"tiered"` for timm's: a tiered stem, the shortcuts of `"v1"`, and
            2x2 rather than 3x3 average pools after strided lambda layers.
        lambda_layer: function `filters -> layer` or `filters, name -> layer`
            that makes what stands at `L`: a layer that keeps the height and
            width of its 4D input. It is named after its block, such as
            `"c4_block2_lambda"`, because weights are matched by place.
            Defaults to `LambdaConv` with a scope of 23.
        squeeze_excite_ratio: float. Width of squeeze-and-excite's hidden layer
            over the channels of a block, in the stages without lambda layers.
            0 for none. Defaults to 0.25 for `"rs"` and to 0 otherwise.
        activation: name of the activation, such as `"relu"` or `"silu"`.
            Defaults to `"relu"`, in squeeze-and-excite always.
        weights: path of a `.keras` file of the same network, saved at any
            image size: learned offsets keep their embeddings, see
            `resize_position_embeddings`. Or a checkpoint of PyTorch, as in
            `load_timm_weights`. The classifier of either is left out if
            `include_top` is `False`, and may then have any number of classes.
            `None` for random weights.
        include_top: bool. Whether to end in a classifier. Defaults to `True`.
        input_tensor: Keras tensor to use as the images, such as the output of
            a layer that prepares them. Defaults to a new `keras.Input`.
        pooling: what ends the network if `include_top` is `False`: `None` for
            the feature maps of c5, `"avg"` or `"max"` for a global pool.
        classifier_activation: activation of the last layer, `None` for logits.
            Defaults to `"softmax"`.
        dropout_rate: float. Dropout before the last layer.
        stochastic_depth_rate: float. Probability that an example skips a
            block of c5 in training; that of c2, c3 and c4 is 2/5, 3/5 and 4/5
            of it.
        width_multiplier: float. Factor on the number of channels everywhere.
        stem_strides: 4, 2 or 1. Downsampling before c2: 4 for photographs, 1
            for images of 32 pixels or fewer.
        normalization: what normalizes after each convolution, and the queries
            and values of the default lambda layers. `"batch"` for
            `BatchNormalization(momentum=0.9, epsilon=1e-5)`, or an unbuilt
            layer to be copied, such as
            `BatchNormalization(momentum=0.9, synchronized=True)`.
        name: name of the model. Defaults to one made of the arguments.

    Returns:
        A `keras.Model` from `(batch_size, height, width, channels)` to
        `(batch_size, num_classes)`.

    Raises:
        ValueError: If an argument has none of the values above, or if a stage
            has too few channels for its lambda layers, or if
            `weights` are those of another network.

    Example:

    >>> model = lambda_keras.build_lambda_resnet(
    ...     depth=26, input_shape=(32, 32, 3), num_classes=10, stem_strides=1)
    >>> print(model.output_shape)
    (None, 10)

    Reference:
        - [Bello, 2021](https://arxiv.org/abs/2102.08602), appendix E.1
        - [Bello et al., 2021](https://arxiv.org/abs/2103.07579) (ResNet-RS)
        - [He et al., 2016](https://arxiv.org/abs/1512.03385)
    """
    check_choice("depth", depth, tuple(DEPTHS))
    check_choice("architecture", architecture, tuple(ARCHITECTURES))
    check_choice("pooling", pooling, (None, "avg", "max"))
    check_choice("stem_strides", stem_strides, (4, 2, 1))
    input_shape = _choose_input_shape(input_shape, input_tensor)
    _check_sizes(input_shape, num_classes, width_multiplier)
    _check_rates(
        dropout_rate=dropout_rate, stochastic_depth_rate=stochastic_depth_rate
    )
    placement = place_lambda_layers(depth, layout, architecture)
    build_stem, style = _choose_style(
        architecture, normalization, activation, squeeze_excite_ratio
    )
    if lambda_layer is None:
        lambda_layer = functools.partial(
            LambdaConv, normalization=normalization
        )
    if input_tensor is None:
        input_tensor = keras.Input(input_shape, name="images")
    width = _scale(64, width_multiplier)
    x = build_stem(input_tensor, width, strides=stem_strides, style=style)
    for number, has_lambda in enumerate(placement):
        x = _build_stage(
            x,
            number,
            filters=_scale(64 * 2**number, width_multiplier),
            lambda_layers=[
                lambda_layer if lambda_here else None
                for lambda_here in has_lambda
            ],
            drop_rate=stochastic_depth_rate * (number + 2) / 5,
            style=style,
        )
    outputs = blocks.build_head(
        x,
        num_classes=num_classes,
        include_top=include_top,
        pooling=pooling,
        dropout_rate=dropout_rate,
        activation=classifier_activation,
    )
    inputs = keras.utils.get_source_inputs(input_tensor)
    model = keras.Model(
        inputs[0] if len(inputs) == 1 else inputs,
        outputs,
        name=_choose_name(name, depth, architecture, layout),
    )
    if weights is not None:
        load_weights(model, weights)
    return model


def _choose_style(architecture, normalization, activation, excite_ratio):
    """Returns the stem of an architecture, and the style of its blocks."""
    if standardize_normalization(normalization) is None:
        raise ValueError(
            "`normalization` must not be None, because the residual branches "
            "of the network start at zero through it. "
            "Received: normalization=None"
        )
    parts = ARCHITECTURES[architecture]
    if excite_ratio is None:
        excite_ratio = parts.squeeze_excite_ratio
    _check_rates(squeeze_excite_ratio=excite_ratio)
    return parts.build_stem, Style(
        normalization=normalization,
        activation=activation,
        shortcut_pools=parts.shortcut_pools,
        lambda_pool_size=parts.lambda_pool_size,
        squeeze_excite_ratio=excite_ratio,
    )


def _build_stage(inputs, number, *, filters, lambda_layers, drop_rate, style):
    """Applies the blocks of a stage; the last activation bears its name.

    Args:
        inputs: `(batch_size, height, width, channels)`.
        number: int. 0 for c2 to 3 for c5; all but c2 halve the map.
        filters: int. Width of the bottlenecks.
        lambda_layers: `lambda_layer` of each block, as in `build_bottleneck`.
        drop_rate: as in `build_bottleneck`.
        style: `Style`.
    """
    # That hybrids squeeze and excite in their convolutional stages alone
    # follows from the paper's parameter counts.
    if any(lambda_layers):
        style = style._replace(squeeze_excite_ratio=0)
    x, stage = inputs, _STAGES[number]
    for block, lambda_layer in enumerate(lambda_layers):
        name = f"{stage}_block{block + 1}"
        x = blocks.build_bottleneck(
            x,
            filters,
            strides=2 if number > 0 and block == 0 else 1,
            lambda_layer=lambda_layer,
            drop_rate=drop_rate,
            style=style,
            name=name,
        )
        if block + 1 < len(lambda_layers):
            x = blocks.activate(x, style, name=name)
    return keras.layers.Activation(style.activation, name=stage)(x)


def _choose_name(name, depth, architecture, layout):
    if name is None:
        parts = (f"lambda_resnet{depth}", architecture, *(layout or ()))
        name = "_".join(parts)
    return name.lower()


def place_lambda_layers(depth, layout, architecture):
    """Says which blocks of a network have lambda layers.

    Args:
        depth: as in `build_lambda_resnet`.
        layout: as in `build_lambda_resnet`.
        architecture: as in `build_lambda_resnet`.

    Returns:
        A list of bools per stage from c2 to c5, one per block.

    Raises:
        ValueError: If there is no such layout.
    """
    block_counts, c4_positions = DEPTHS[depth]
    if layout is None and architecture != "v1":
        c4 = ["CL"[n + 1 in c4_positions] for n in range(block_counts[2])]
        layout = ("C", "C", "".join(c4), "L")
    layout = "LLLL" if layout is None else layout
    placement = [
        letters * count if len(letters) == 1 else letters
        for letters, count in zip(layout, block_counts, strict=False)
    ]
    lengths = tuple(len(letters) for letters in placement)
    if (
        len(layout) != len(_STAGES)
        or lengths != block_counts
        or set("".join(placement)) - set("CL")
    ):
        raise ValueError(
            "`layout` must be four letters, one per stage from c2 to c5, or "
            "four strings with one letter per block of the stage, of which "
            f"depth {depth} has {block_counts}: C for convolutions or L "
            f"for lambda layers. Received: layout={layout!r}"
        )
    return [[letter == "L" for letter in letters] for letters in placement]


def _choose_input_shape(input_shape, input_tensor):
    if input_tensor is None:
        return (224, 224, 3) if input_shape is None else input_shape
    if not keras.utils.is_keras_tensor(input_tensor):
        raise ValueError(
            "`input_tensor` must be a Keras tensor, such as a `keras.Input`, "
            "because the network becomes a part of its graph. "
            f"Received: input_tensor={input_tensor}"
        )
    tensor_shape = tuple(input_tensor.shape[1:])
    if input_shape is not None and tuple(input_shape) != tensor_shape:
        raise ValueError(
            "`input_shape` must be that of `input_tensor`, or be left out. "
            f"Received: input_shape={input_shape} for a tensor of "
            f"{tensor_shape}"
        )
    return tensor_shape


def _check_sizes(input_shape, num_classes, width_multiplier):
    if len(input_shape) != 3 or input_shape[-1] is None:
        raise ValueError(
            "`input_shape` must be (height, width, channels) with a known "
            f"number of channels. Received: input_shape={input_shape}"
        )
    check_positive_integers(num_classes=num_classes)
    if _scale(64, width_multiplier) < 2:
        raise ValueError(
            "`width_multiplier` must leave at least 2 of the stem's 64 "
            f"channels. Received: width_multiplier={width_multiplier}"
        )


def _check_rates(**rates):
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(
                f"`{name}` must be at least 0 and below 1. "
                f"Received: {name}={rate}"
            )


def _scale(filters, width_multiplier):
    return round(filters * width_multiplier)
