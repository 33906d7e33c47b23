"""LambdaResNets and the ResNets that they are compared with."""

import functools

import keras

from lambda_keras import blocks
from lambda_keras.checks import check_choice
from lambda_keras.checks import check_positive_integers
from lambda_keras.lambda_conv import LambdaConv
from lambda_keras.normalization import standardize_normalization
from lambda_keras.pretrained import load_weights

_STAGES = ("c2", "c3", "c4", "c5")

# depth: (blocks in c2 to c5, positions from 1 of the lambda layers in c4).
# Block counts: Bello et al., 2021 (ResNet-RS); 26 is the usual small one. In
# c4 of the hybrids, the number of lambda layers is that of Bello, 2021,
# appendix E.1, where every block of c5 has one and c2 and c3 have none.
_DEPTHS = {
    26: ((2, 2, 2, 2), (2,)),
    50: ((3, 4, 6, 3), (3,)),
    101: ((3, 4, 23, 3), (6, 12, 18)),
    152: ((3, 8, 36, 3), (5, 10, 15, 20, 25, 30)),
    200: ((3, 24, 36, 3), (5, 10, 15, 20, 25, 30)),
    270: ((4, 29, 53, 4), (8, 16, 24, 32, 40, 48)),
    350: ((4, 36, 72, 4), (10, 20, 30, 40, 50, 60)),
    420: ((4, 44, 87, 4), (10, 20, 30, 40, 50, 60, 70, 80)),
}


def build_lambda_resnet(
    depth=50,
    input_shape=(224, 224, 3),
    num_classes=1000,
    *,
    layout=None,
    architecture="rs",
    lambda_layer=None,
    squeeze_excite_ratio=None,
    weights=None,
    include_top=True,
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
        depth: int. 26, 50, 101, 152, 200, 270, 350 or 420.
        input_shape: `(height, width, channels)`. Height and width may be
            `None` if the lambda layers allow it, as `LambdaConv` does.
        num_classes: int. Size of the last layer.
        layout: four letters, one a stage from c2 to c5: `C` for convolutions,
            `L` for a lambda layer in every block. `"CCLL"` with the
            architecture `"rs"` is the paper's LambdaResNet-C4, `"CCCC"` is
            ResNet-RS. Defaults to the paper's hybrid for `"rs"` and to
            `"LLLL"` for `"v1"`.
        architecture: `"rs"` for the stem and shortcuts of ResNet-RS and
            squeeze-and-excite in the stages without lambda layers, or `"v1"`
            for the first ResNet, as in the paper's Tables 3, 4 and 12.
        lambda_layer: function `filters -> layer` that makes what stands at
            `L`: a layer that keeps the height and width of its 4D input.
            Defaults to `LambdaConv` with a scope of 23.
        squeeze_excite_ratio: float. Width of squeeze-and-excite's hidden layer
            over the channels of a block, in the stages without lambda layers.
            0 for none. Defaults to 0.25 for `"rs"` and to 0 for `"v1"`.
        weights: path of a `.keras` file of the same network, saved at any
            image size: learned offsets keep their embeddings, see
            `resize_position_embeddings`. `None` for random weights.
        include_top: bool. Whether to end in a classifier. Defaults to `True`.
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
    check_choice("depth", depth, tuple(_DEPTHS))
    check_choice("architecture", architecture, ("rs", "v1"))
    check_choice("pooling", pooling, (None, "avg", "max"))
    check_choice("stem_strides", stem_strides, (4, 2, 1))
    _check_sizes(input_shape, num_classes, width_multiplier)
    _check_rates(
        dropout_rate=dropout_rate, stochastic_depth_rate=stochastic_depth_rate
    )
    if standardize_normalization(normalization) is None:
        raise ValueError(
            "`normalization` must not be None, because the residual branches "
            "of the network start at zero through it. "
            "Received: normalization=None"
        )
    placement = _place_lambda_layers(depth, layout, architecture)
    is_rs = architecture == "rs"
    if squeeze_excite_ratio is None:
        squeeze_excite_ratio = 0.25 if is_rs else 0
    _check_rates(squeeze_excite_ratio=squeeze_excite_ratio)
    if lambda_layer is None:
        lambda_layer = functools.partial(
            LambdaConv, normalization=normalization
        )
    build_stem = blocks.build_deep_stem if is_rs else blocks.build_classic_stem

    inputs = keras.Input(input_shape, name="images")
    x = build_stem(
        inputs,
        _scale(64, width_multiplier),
        strides=stem_strides,
        normalization=normalization,
    )
    for stage, has_lambda in enumerate(placement):
        # That hybrids squeeze and excite in their convolutional stages alone
        # follows from the paper's parameter counts.
        excites = not any(has_lambda)
        for block, lambda_here in enumerate(has_lambda):
            block_name = f"{_STAGES[stage]}_block{block + 1}"
            x = blocks.build_bottleneck(
                x,
                _scale(64 * 2**stage, width_multiplier),
                strides=2 if stage > 0 and block == 0 else 1,
                lambda_layer=lambda_layer if lambda_here else None,
                shortcut_pools=is_rs,
                squeeze_excite_ratio=squeeze_excite_ratio if excites else 0,
                drop_rate=stochastic_depth_rate * (stage + 2) / 5,
                normalization=normalization,
                name=block_name,
            )
            last = block + 1 == len(has_lambda)
            x = keras.layers.Activation(
                "relu", name=_STAGES[stage] if last else f"{block_name}_relu"
            )(x)

    if include_top or pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="pool")(x)
    if include_top:
        if dropout_rate:
            x = keras.layers.Dropout(dropout_rate, name="dropout")(x)
        x = keras.layers.Dense(
            num_classes,
            activation=classifier_activation,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            # Probabilities and losses need float32 in mixed precision too.
            dtype="float32",
            name="predictions",
        )(x)
    if name is None:
        name = f"lambda_resnet{depth}_{architecture}"
        if layout is not None:
            name = f"{name}_{layout.lower()}"
    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        load_weights(model, weights)
    return model


def _place_lambda_layers(depth, layout, architecture):
    """Returns for each stage a list of bools, one a block."""
    block_counts, c4_positions = _DEPTHS[depth]
    if layout is None and architecture == "rs":
        return [
            [False] * block_counts[0],
            [False] * block_counts[1],
            [n + 1 in c4_positions for n in range(block_counts[2])],
            [True] * block_counts[3],
        ]
    layout = "LLLL" if layout is None else layout
    if len(layout) != len(_STAGES) or set(layout) - set("CL"):
        raise ValueError(
            "`layout` must be four letters, one a stage from c2 to c5: C for "
            "convolutions or L for lambda layers. "
            f"Received: layout={layout!r}"
        )
    return [
        [letter == "L"] * count
        for letter, count in zip(layout, block_counts, strict=True)
    ]


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
