"""LambdaResNets as backbones of tf-models-official's detectors."""

import dataclasses
import functools
import os
import re

import keras
import tensorflow as tf
import tf_keras
from official.modeling import hyperparams
from official.vision.configs import backbones
from official.vision.modeling.backbones import factory

import lambda_keras
from lambda_keras.networks.weights import load_weights
from trainers import run_folder
from trainers.files import fetching
from trainers.files import make_path
from trainers.optimization import decays
from trainers.program import UserError

_TYPE = "lambda_resnet"
_LEVELS = range(2, 6)
_LAMBDA_LAYERS = {
    "LambdaConv": lambda_keras.LambdaConv,
    "LambdaLayer": lambda_keras.LambdaLayer,
}


@dataclasses.dataclass
class LambdaResNet(hyperparams.Config):
    """What `build_lambda_resnet` or `build_network` is to build.

    Normalization and activation are those of the detector, in its
    `norm_activation`, but for the activation of a named network.

    Attributes:
        network: name for `build_network`; the next seven are then unused.
            Empty for `build_lambda_resnet`.
        depth: as in `build_lambda_resnet`.
        layout: four letters, or four strings with commas between them, such
            as `"C,C,CCLCCC,L"`. Empty for the default.
        architecture: as in `build_lambda_resnet`.
        squeeze_excite_ratio: as in `build_lambda_resnet`; `None` for the
            default.
        width_multiplier: as in `build_lambda_resnet`.
        lambda_layer: `"LambdaConv"`, or `"LambdaLayer"`, whose weights fit
            one image size.
        scope_size: of `LambdaConv`, positions.
        stochastic_depth_rate: as in `build_lambda_resnet`.
        weights: file or folder to begin with, as in `load_backbone_weights`.
            Empty for random weights.
    """

    network: str = ""
    depth: int = 101
    layout: str = ""
    architecture: str = "rs"
    squeeze_excite_ratio: float | None = None
    width_multiplier: float = 1.0
    lambda_layer: str = "LambdaConv"
    scope_size: int = 23
    stochastic_depth_rate: float = 0.0
    weights: str = ""


@dataclasses.dataclass
class Backbone(backbones.Backbone):
    """tf-models-official's backbones and this project's."""

    lambda_resnet: LambdaResNet = dataclasses.field(
        default_factory=LambdaResNet
    )


class KerasBackbone(tf_keras.Model):
    """A network of Keras 3 as a model of tf_keras, with the same variables.

    Args:
        network: `keras.Model` from images to a dictionary of feature maps.
        l2_regularizer: function of a weight, whose value is added to the
            loss for all that decay; `None` for none.

    Attributes:
        network_weights: dictionary from the paths of the network's weights,
            such as `"c4_block2_lambda:query:kernel"`, to variables. The keys
            of checkpoints are made of these.
        random_states: list of the variables of random operations.
        output_specs: dictionary from levels to shapes.
    """

    def __init__(self, network, l2_regularizer=None, **kwargs):
        super().__init__(**kwargs)
        # A function, because tf_keras looks for variables in all else.
        self._get_network = lambda: network
        weights = {_make_key(weight): weight for weight in network.weights}
        self.network_weights = {
            key: weight.value for key, weight in weights.items()
        }
        known = {id(weight) for weight in network.weights}
        self.random_states = [
            variable.value
            for variable in network.variables
            if id(variable) not in known
        ]
        self.output_specs = {
            level: tf.TensorShape(features.shape)
            for level, features in network.output.items()
        }
        if l2_regularizer:
            for key, weight in weights.items():
                if weight.trainable and decays(weight):
                    self.add_loss(
                        functools.partial(
                            l2_regularizer, self.network_weights[key]
                        )
                    )

    # Keras's own code has no control flow that is for TensorFlow to rewrite.
    @tf.autograph.experimental.do_not_convert
    def call(self, inputs, training=None):
        # What is frozen keeps its statistics, too.
        is_training = bool(training) and self.trainable
        return self._get_network()(inputs, training=is_training)


def _make_key(weight):
    # Keras numbers the tables that several layers share.
    path = re.sub(r"(position_embeddings)_\d+", r"\1", weight.path)
    # What else stands between words is escaped in checkpoints.
    return path.replace("/", ":")


@functools.cache
def register_backbone() -> None:
    """Makes `"lambda_resnet"` known to tf-models-official."""
    factory.register_backbone_builder(_TYPE)(_build_backbone)


def _build_backbone(
    input_specs, backbone_config, norm_activation_config, l2_regularizer=None
):
    network = build_features(
        backbone_config.get(), norm_activation_config, input_specs.shape[1:]
    )
    return KerasBackbone(network, l2_regularizer, name=_TYPE)


def build_features(
    config: LambdaResNet,
    norm_activation: hyperparams.Config,
    input_shape: tuple[int | None, int | None, int],
) -> keras.Model:
    """Builds a network from images to the last activations of its stages.

    Args:
        config: names the network and its weights.
        norm_activation: tf-models-official's `NormActivation`.
        input_shape: `(height, width, channels)` of the images.

    Returns:
        A model whose outputs are named `"2"` to `"5"`; those of level n have
        a stride of `2**n`.

    Raises:
        UserError: If there is no such network, or if the weights are those of
            another.
    """
    normalization = keras.layers.BatchNormalization(
        momentum=norm_activation.norm_momentum,
        epsilon=norm_activation.norm_epsilon,
        synchronized=norm_activation.use_sync_bn,
    )
    common = {
        "input_shape": tuple(input_shape),
        "include_top": False,
        "normalization": normalization,
        "stochastic_depth_rate": config.stochastic_depth_rate,
    }
    try:
        if config.network:
            network = lambda_keras.build_network(config.network, **common)
        else:
            network = lambda_keras.build_lambda_resnet(
                config.depth,
                layout=_split_layout(config.layout),
                architecture=config.architecture,
                squeeze_excite_ratio=config.squeeze_excite_ratio,
                activation=norm_activation.activation,
                width_multiplier=config.width_multiplier,
                lambda_layer=_choose_lambda_layer(config, normalization),
                **common,
            )
    except ValueError as error:
        raise UserError(f"The backbone cannot be built. {error}") from error
    if config.weights:
        load_backbone_weights(network, config.weights)
    levels = {str(n): network.get_layer(f"c{n}").output for n in _LEVELS}
    return keras.Model(network.input, levels, name=network.name)


def _split_layout(layout):
    return (layout.split(",") if "," in layout else layout) or None


def _choose_lambda_layer(config, normalization):
    if config.lambda_layer not in _LAMBDA_LAYERS:
        raise ValueError(
            f"`lambda_layer` must be {' or '.join(_LAMBDA_LAYERS)}. "
            f"Received: lambda_layer={config.lambda_layer}"
        )
    arguments = {"normalization": normalization}
    if config.lambda_layer == "LambdaConv":
        arguments["scope_size"] = config.scope_size
    return functools.partial(_LAMBDA_LAYERS[config.lambda_layer], **arguments)


def load_backbone_weights(network: keras.Model, path: str) -> None:
    """Gives a network without a classifier the weights of a trained one.

    Args:
        network: what `build_lambda_resnet` returns.
        path: `.keras` file of a classifier, the folder of a run of
            `train_classifier`, or a checkpoint as in `load_timm_weights`.

    Raises:
        UserError: If there is no such file, or if it is of another network.
    """
    source = path
    if "://" not in path or path.startswith("gs://"):
        source = make_path(path)
        if source.is_dir():
            source = source / run_folder.BEST_FILE
        if not source.exists():
            raise UserError(
                "Weights of a backbone must be a .keras file, the folder of a "
                "run that has its best.keras, or a checkpoint of timm. "
                f"Received: {path}"
            )
    try:
        if isinstance(source, str):
            load_weights(network, source)
            return
        with fetching(source) as local:
            load_weights(network, os.fspath(local))
    except run_folder.KERAS_ERRORS as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"The weights in {path} cannot be those of the backbone: {reason}"
        ) from error


def check_checkpoint(backbone: KerasBackbone, path: str) -> None:
    """Checks that a checkpoint of tf-models-official is of a backbone.

    Args:
        backbone: what is to have the weights.
        path: checkpoint, without the suffix of a file.

    Raises:
        UserError: If it is not, or if it is damaged.
    """
    try:
        stored = dict(tf.train.list_variables(path))
    except (ValueError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} must be a checkpoint: {reason}") from error
    shapes = {}
    for name, shape in stored.items():
        if match := re.search("/network_weights/(.+)/[.]ATTRIBUTES/", name):
            shapes[match[1]] = shape
    ours = {
        key: weight.shape.as_list()
        for key, weight in backbone.network_weights.items()
    }
    misfits = [
        key for key in {**ours, **shapes} if ours.get(key) != shapes.get(key)
    ]
    if misfits:
        raise UserError(
            f"{path} must be a checkpoint of the same backbone. Received: "
            f"{len(misfits)} weights of other names or shapes, such as "
            f"{misfits[0]}, {shapes.get(misfits[0])} instead of "
            f"{ours.get(misfits[0])}"
        )
