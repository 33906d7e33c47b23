"""Counts the multiply-adds of a built network."""

import itertools
import math

import keras

from lambda_keras.base_lambda import BaseLambda
from lambda_keras.lambda_conv import LambdaConv

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
# Have weights, and are not counted.
_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
)


def count_multiply_adds(model):
    """Counts the multiply-adds that one example takes, without activations.

    Convolutions, dense and lambda layers count; normalizations, activations,
    pools and sums do not, as is the custom. A convolution counts the padding
    that it multiplies.

    A lambda layer counts as the paper defines it, however it is computed: its
    projections, the lambda of the content, the lambda of each position (for a
    `LambdaConv` a convolution with `scope_size ** rank` taps) and the
    application of their sum to each query.

    Args:
        model: a functional or sequential `keras.Model` with inputs of known
            size. Models within it count as often as they are called.

    Returns:
        int. Papers often give twice that as FLOPs.

    Raises:
        ValueError: If a size is unknown, or if a layer has weights and is none
            of those above.

    Example:

    >>> model = lambda_keras.build_lambda_resnet(
    ...     50, layout="CCCC", architecture="v1")
    >>> print(f"{lambda_keras.count_multiply_adds(model) / 1e9:.2f}")
    4.09
    """
    if isinstance(model, keras.Sequential):
        model = model._functional
    # As Keras's own summary walks them: a layer may be called several times.
    nodes = itertools.chain.from_iterable(model._nodes_by_depth.values())
    return sum(_count_node(node) for node in nodes)


def _count_node(node):
    layer = node.operation
    if isinstance(layer, keras.Model):
        return count_multiply_adds(layer)
    if not getattr(layer, "weights", ()) or isinstance(layer, _NORMALIZATIONS):
        return 0
    inputs, outputs = node.input_tensors[0], node.outputs[0]
    _check_size(layer, inputs)
    if isinstance(layer, BaseLambda):
        _, *optional = node.arguments.args
        context = optional[0] if optional else inputs
        context = node.arguments.kwargs.get("context", context)
        _check_size(layer, context)
        return _count_lambda_layer(layer, inputs.shape, context.shape)
    if isinstance(layer, keras.layers.Dense):
        return math.prod(inputs.shape[1:]) * layer.units
    if isinstance(layer, _CONVOLUTIONS):
        return math.prod(layer.kernel.shape) * math.prod(outputs.shape[1:-1])
    raise ValueError(
        "Only convolutions, dense and lambda layers, normalizations and "
        "layers without weights can be counted. "
        f"Received: {layer.name}, a {type(layer).__name__}"
    )


def _count_lambda_layer(layer, inputs_shape, context_shape):
    queries, contexts = (
        math.prod(shape[1:-1]) for shape in (inputs_shape, context_shape)
    )
    # One product of a key or an embedding with a value.
    products = layer.num_key_value_heads * layer.intra_depth
    products *= layer.key_dim * layer.value_dim
    total = queries * inputs_shape[-1] * layer.query.units
    total += contexts * context_shape[-1] * layer.value.units
    if layer.use_content:
        total += contexts * context_shape[-1] * layer.key.units
        total += contexts * products
    if layer.use_position:
        is_local = isinstance(layer, LambdaConv)
        rank = len(inputs_shape) - 2
        seen = layer.scope_size**rank if is_local else contexts
        total += queries * seen * products
    return total + queries * layer.filters * layer.key_dim


def _check_size(layer, tensor):
    if None in tensor.shape[1:]:
        raise ValueError(
            "Only a model with inputs of known size can be counted, because "
            "the multiply-adds grow with it. "
            f"Received: {layer.name} of shape {tuple(tensor.shape)}"
        )
