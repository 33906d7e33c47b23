"""Batch normalizations as part of the layers before them, for inference."""

import collections
from typing import Any

import keras
from keras import ops

from lambda_keras.normalization import find_affine
from lambda_keras.normalization import has_affine

_PROJECTIONS = (
    keras.layers.Conv2D,
    keras.layers.Dense,
    keras.layers.DepthwiseConv2D,
)


def fold_batch_normalizations(model: keras.Model) -> keras.Model:
    """Returns a model that is the same in inference, and has fewer layers.

    A batch normalization of what a convolution or a dense layer returns, if
    nothing else uses that, becomes part of its kernel and its bias. Those
    within lambda layers stay, which fold them themselves.

    Args:
        model: a model, which stays as it is. Functional models among its
            layers are folded, too.

    Returns:
        A copy.
    """
    config = keras.saving.serialize_keras_object(model)
    copy = keras.saving.deserialize_keras_object(config)
    copy.set_weights(model.get_weights())
    # To call layers once more is to take their `output` from them.
    return _fold(copy)


def _fold(part):
    config = part.get_config() if isinstance(part, keras.Model) else {}
    # Only the config of a functional model has them.
    if "output_layers" not in config:
        return part
    layers = {layer.name: layer for layer in part.layers}
    folded = {
        name: source
        for name, source in _find_chains(config).items()
        if _can_fold(layers.get(name), layers.get(source))
    }
    projections = {
        source: _fold_into(layers[source], layers[name])
        for name, source in folded.items()
    }

    def call(layer, *args, **kwargs):
        return args[0] if layer.name in folded else layer(*args, **kwargs)

    return keras.models.clone_model(
        part,
        clone_function=lambda layer: projections.get(layer.name, _fold(layer)),
        call_function=call,
    )


def _find_chains(config: dict[str, Any]) -> dict[str, str]:
    """Finds layers that alone use what another returns.

    Args:
        config: config of a functional model.

    Returns:
        From their names to those of the others. All are called once, and the
        former with nothing else.
    """
    calls = {
        layer["name"]: [
            _list_arguments(node) for node in layer["inbound_nodes"]
        ]
        for layer in config["layers"]
    }
    users = collections.Counter(keras.tree.flatten(config["output_layers"]))
    users.update(
        argument
        for nodes in calls.values()
        for arguments in nodes
        for argument in arguments
    )
    return {
        name: nodes[0][0]
        for name, nodes in calls.items()
        if len(nodes) == 1
        and len(nodes[0]) == 1
        and users[nodes[0][0]] == 1
        and len(calls.get(nodes[0][0], ())) == 1
    }


def _list_arguments(node):
    """Lists what a layer is called with: names of layers, or other values."""
    if isinstance(node, dict) and node.get("class_name") == "__keras_tensor__":
        return [node["config"]["keras_history"][0]]
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list | tuple):
        return [name for part in node for name in _list_arguments(part)]
    return [] if node is None else [str(node)]


def _can_fold(normalization, layer):
    return (
        type(layer) in _PROJECTIONS
        and layer.activation is keras.activations.linear
        and layer.quantization_mode is None
        and not getattr(layer, "lora_enabled", False)
        and getattr(layer, "data_format", "channels_last") == "channels_last"
        and has_affine(normalization)
    )


def _fold_into(layer, normalization):
    """Returns a layer that does what the two do one after the other."""
    scale, shift = find_affine(normalization, "float32")
    bias = shift + layer.bias * scale if layer.use_bias else shift
    kernel = layer.kernel
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        # Its kernel has its output channels on two axes.
        scale = ops.reshape(scale, kernel.shape[-2:])
    config = {**layer.get_config(), "use_bias": True}
    folded = type(layer).from_config(config)
    folded.build_from_config(layer.get_build_config())
    folded.set_weights([kernel * scale, bias])
    return folded
