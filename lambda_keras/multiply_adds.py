"""Counts the multiply-adds of a built network."""

import itertools
import math

import keras

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

    Convolutions, dense, lambda and attention layers count; normalizations,
    activations, pools and sums do not, as is the custom. A convolution counts
    the padding that it multiplies.

    Lambda and attention layers count as they are defined, however they are
    computed: their methods `count_multiply_adds` say it. A layer of your own
    counts by such a method, from the shape of its inputs to a number.

    Args:
        model: a functional or sequential `keras.Model` with inputs of known
            size. Models within it count as often as they are called.

    Returns:
        int. Papers often give twice that as FLOPs.

    Raises:
        ValueError: If a size is unknown, or if a layer has weights, is none
            of those above and has no such method.

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
    if hasattr(layer, "count_multiply_adds"):
        return layer.count_multiply_adds(*_list_shapes(node))
    if isinstance(layer, keras.Model):
        return count_multiply_adds(layer)
    if not getattr(layer, "weights", ()) or isinstance(layer, _NORMALIZATIONS):
        return 0
    inputs, outputs = node.input_tensors[0], node.outputs[0]
    _check_size(layer, inputs.shape)
    if isinstance(layer, keras.layers.Dense):
        return math.prod(inputs.shape[1:]) * layer.units
    if isinstance(layer, _CONVOLUTIONS):
        return math.prod(layer.kernel.shape) * math.prod(outputs.shape[1:-1])
    raise ValueError(
        "Only convolutions, dense, lambda and attention layers, "
        "normalizations, layers without weights and those that have a method "
        "`count_multiply_adds` can be counted. "
        f"Received: {layer.name}, a {type(layer).__name__}"
    )


def _list_shapes(node):
    """Returns the shape of the inputs and, if it is separate, the context's."""
    arguments = node.arguments
    context = [*arguments.args[1:2], arguments.kwargs.get("context")][0]
    tensors = [node.input_tensors[0], context]
    shapes = [tensor.shape for tensor in tensors if tensor is not None]
    for shape in shapes:
        _check_size(node.operation, shape)
    return shapes


def _check_size(layer, shape):
    if None in shape[1:]:
        raise ValueError(
            "Only a model with inputs of known size can be counted, because "
            "the multiply-adds grow with it. "
            f"Received: {layer.name} of shape {tuple(shape)}"
        )
