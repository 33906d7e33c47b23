"""The networks that have a name, and what is known about them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from lambda_keras.lambda_conv import LambdaConv
from lambda_keras.lambda_layer import LambdaLayer
from lambda_keras.networks.lambda_resnet import build_lambda_resnet
from lambda_keras.position_embeddings import PositionEmbeddings


class Network(NamedTuple):
    """A network, the images that it is meant for, and what it achieves.

    Attributes:
        layout: as in `build_lambda_resnet`; `None` for the paper's hybrid.
        parameters: trainable parameters with 1000 classes.
        multiply_adds: of an image of `image_size`, see `count_multiply_adds`.
        top_1: accuracy on ImageNet in the source, per cent. `None` where it
            reports none, or none that we could confirm.
        source: where network and accuracy come from.
        depth: as in `build_lambda_resnet`.
        image_size: height and width of the images in the source, pixels.
        architecture: as in `build_lambda_resnet`.
        lambda_layer: function `filters -> layer` that takes `normalization`.
        shares_embeddings: whether the layers of a stage share theirs.
        activation: as in `build_lambda_resnet`.
    """

    layout: str | tuple | None
    parameters: int
    multiply_adds: int
    top_1: float | None
    source: str
    depth: int
    image_size: int
    architecture: str
    lambda_layer: Callable = LambdaConv
    shares_embeddings: bool = False
    activation: str = "relu"


_v1 = functools.partial(Network, depth=50, image_size=224, architecture="v1")
_rs = functools.partial(Network, architecture="rs")
_timm = functools.partial(Network, image_size=256, architecture="tiered")
_biased = functools.partial(LambdaConv, use_bias=True)
_biased_9 = functools.partial(_biased, scope_size=9)
_HE = "He et al., 2016"
_RS = "Bello et al., 2021"
_BELLO = "Bello, 2021"
_TABLE_3 = "Bello, 2021, Table 3"
_TABLE_4 = "Bello, 2021, Table 4"
_TABLE_12 = "Bello, 2021, Table 12"
# Accuracy against the time of a step; we read it to about 0.03 points.
_FIGURE = "Bello, 2021, read off a figure"
_TIMM = "timm"
_D_LI14 = "d-li14/lambda.pytorch"

NETWORKS = {
    # ResNets, and lambda layers in the stages of ResNet-50.
    "resnet50": _v1("CCCC", 25_557_032, 4_089_184_256, 76.9, _TABLE_12),
    "resnet101": _v1("CCCC", 44_549_160, 7_801_405_440, None, _HE, depth=101),
    "resnet152": _v1("CCCC", 60_192_808, 11_513_626_624, None, _HE, depth=152),
    "resnet50_lccc": _v1("LCCC", 25_490_744, 5_086_281_728, 77.3, _TABLE_12),
    "resnet50_llcc": _v1("LLCC", 24_992_888, 6_202_998_784, 77.2, _TABLE_12),
    "resnet50_lllc": _v1("LLLC", 21_727_448, 6_538_977_280, 77.8, _TABLE_12),
    "resnet50_llll": _v1("LLLL", 14_995_592, 6_544_998_400, 78.4, _TABLE_12),
    "resnet50_clll": _v1("CLLL", 15_061_880, 5_547_900_928, 78.3, _TABLE_12),
    "resnet50_ccll": _v1("CCLL", 15_559_736, 4_431_183_872, 78.3, _TABLE_12),
    "resnet50_cccl": _v1("CCCL", 18_825_176, 4_095_205_376, 77.3, _TABLE_12),
    # Other lambda layers in all stages.
    "resnet50_llll_u4": _v1(
        "LLLL",
        16_040_360,
        4_360_536_064,
        78.9,
        _TABLE_3,
        lambda_layer=functools.partial(LambdaConv, scope_size=7, intra_depth=4),
    ),
    "resnet50_llll_k8": _v1(
        "LLLL",
        14_775_816,
        4_432_388_096,
        77.9,
        _TABLE_4,
        lambda_layer=functools.partial(LambdaConv, key_dim=8),
    ),
    "resnet50_llll_r7": _v1(
        "LLLL",
        14_872_712,
        2_884_157_440,
        78.1,
        _TABLE_4,
        lambda_layer=functools.partial(LambdaConv, scope_size=7),
    ),
    "resnet50_llll_shared": _v1(
        "LLLL",
        14_894_024,
        6_544_998_400,
        78.0,
        _TABLE_4,
        shares_embeddings=True,
    ),
    "resnet50_llll_biased": _v1(
        "LLLL", 14_995_848, 6_544_998_400, 78.208, _D_LI14, lambda_layer=_biased
    ),
    # ResNet-RS.
    "resnet_rs50": _rs("CCCC", 35_691_912, 2_278_629_376, 78.8, _RS, 50, 160),
    "resnet_rs101": _rs("CCCC", 63_618_696, 6_012_157_952, 81.2, _RS, 101, 192),
    "resnet_rs152": _rs(
        "CCCC", 86_621_576, 15_527_886_848, 83.0, _RS, 152, 256
    ),
    "resnet_rs200": _rs(
        "CCCC", 93_209_992, 20_093_386_752, 83.4, _RS, 200, 256
    ),
    "resnet_rs270": _rs(
        "CCCC", 129_861_448, 26_950_189_056, 83.8, _RS, 270, 256
    ),
    "resnet_rs350": _rs(
        "CCCC", 163_956_168, 53_683_601_408, 84.2, _RS, 350, 320
    ),
    "resnet_rs420": _rs(
        "CCCC", 191_891_656, 63_942_344_704, 84.4, _RS, 420, 320
    ),
    # LambdaResNets: some lambda layers in c4, only lambda layers in c5.
    "lambda_resnet50": _rs(
        None, 18_963_272, 2_271_649_792, None, _BELLO, 50, 160
    ),
    "lambda_resnet101": _rs(
        None, 36_866_920, 5_995_577_344, None, _BELLO, 101, 192
    ),
    "lambda_resnet152": _rs(
        None, 51_404_696, 15_501_148_160, 83.8, _FIGURE, 152, 256
    ),
    "lambda_resnet200": _rs(
        None, 57_993_112, 20_066_648_064, None, _BELLO, 200, 256
    ),
    "lambda_resnet270": _rs(
        None, 81_366_248, 26_838_253_568, 84.2, _FIGURE, 270, 256
    ),
    "lambda_resnet350": _rs(
        None, 105_475_176, 53_519_089_664, 84.7, _FIGURE, 350, 320
    ),
    "lambda_resnet420": _rs(
        None, 124_438_664, 63_765_053_440, 84.9, _BELLO, 420, 320
    ),
    # LambdaResNet-C4: only lambda layers in c4 and c5.
    "lambda_resnet101_c4": _rs(
        "CCLL", 25_982_120, 8_478_801_920, None, _BELLO, 101, 224
    ),
    "lambda_resnet152_c4": _rs(
        "CCLL", 35_077_496, 24_845_434_880, 84.0, _BELLO, 152, 320
    ),
    "lambda_resnet200_c4": _rs(
        "CCLL", 41_665_912, 31_977_848_832, 84.3, _BELLO, 200, 320
    ),
    # timm's.
    "lambda_resnet26t": _timm(
        ("C", "C", "CL", "L"),
        10_958_272,
        2_999_795_712,
        79.126,
        _TIMM,
        depth=26,
        lambda_layer=_biased_9,
    ),
    "lambda_resnet26rpt_256": _timm(
        ("C", "C", "CL", "L"),
        10_988_688,
        3_135_193_088,
        78.96,
        _TIMM,
        depth=26,
        lambda_layer=LambdaLayer,
    ),
    "lambda_resnet50ts": _timm(
        ("C", "CCCL", "CLCLCL", "CLC"),
        21_536_832,
        5_030_887_424,
        81.184,
        _TIMM,
        depth=50,
        lambda_layer=_biased_9,
        activation="silu",
    ),
}


def build_network(
    name,
    input_shape=None,
    num_classes=1000,
    *,
    weights=None,
    include_top=True,
    input_tensor=None,
    pooling=None,
    classifier_activation="softmax",
    dropout_rate=0.0,
    stochastic_depth_rate=0.0,
    normalization="batch",
):
    """Builds one of `NETWORKS` with `build_lambda_resnet`.

    Args:
        name: key of `NETWORKS`, which `docs/networks.md` lists.
        input_shape: `(height, width, channels)`. Defaults to the shape of
            `input_tensor`, or to 3 channels of the network's `image_size`.
        num_classes: int. Size of the last layer.
        weights: as in `build_lambda_resnet`, like all that follow.
        include_top: whether to end in a classifier.
        input_tensor: Keras tensor to use as the images.
        pooling: what ends the network if `include_top` is `False`.
        classifier_activation: activation of the last layer.
        dropout_rate: float. Dropout before the last layer.
        stochastic_depth_rate: float. Rate in c5.
        normalization: what normalizes everywhere.

    Returns:
        A `keras.Model` with the name.

    Raises:
        ValueError: If there is no such network, or if the weights are those
            of another.

    Example:

    >>> model = lambda_keras.build_network("lambda_resnet26t")
    >>> print(model.input_shape, model.output_shape)
    (None, 256, 256, 3) (None, 1000)
    """
    if name not in NETWORKS:
        raise ValueError(
            f"`name` must be one of {', '.join(NETWORKS)}. "
            f"Received: name={name!r}"
        )
    network = NETWORKS[name]
    if input_shape is None and input_tensor is None:
        input_shape = (network.image_size, network.image_size, 3)
    lambda_layer = functools.partial(
        network.lambda_layer, normalization=normalization
    )
    if network.shares_embeddings:
        lambda_layer = _share_embeddings(lambda_layer)
    return build_lambda_resnet(
        network.depth,
        input_shape,
        num_classes,
        layout=network.layout,
        architecture=network.architecture,
        lambda_layer=lambda_layer,
        activation=network.activation,
        weights=weights,
        include_top=include_top,
        input_tensor=input_tensor,
        pooling=pooling,
        classifier_activation=classifier_activation,
        dropout_rate=dropout_rate,
        stochastic_depth_rate=stochastic_depth_rate,
        normalization=normalization,
        name=name,
    )


def _share_embeddings(lambda_layer):
    """Returns `filters -> layer`; layers of as many filters share theirs."""
    embeddings = {}

    def make_layer(filters):
        if filters not in embeddings:
            embeddings[filters] = PositionEmbeddings()
        return lambda_layer(filters, position_embeddings=embeddings[filters])

    return make_layer
