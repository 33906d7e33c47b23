"""Gradients on every backend of Keras."""

import keras
import numpy as np
from keras import ops


def compute(function, tensors, upstream):
    """Returns the outputs of a function and its gradients as NumPy arrays.

    Args:
        function: takes the tensors and returns one.
        tensors: NumPy arrays.
        upstream: NumPy array, the gradient of the outputs.
    """
    compute_on_backend = {
        "tensorflow": _compute_on_tensorflow,
        "jax": _compute_on_jax,
        "torch": _compute_on_torch,
    }[keras.backend.backend()]
    outputs, gradients = compute_on_backend(function, tensors, upstream)
    return [np.asarray(ops.convert_to_numpy(x)) for x in (outputs, *gradients)]


def _compute_on_tensorflow(function, tensors, upstream):
    import tensorflow as tf

    tensors = [tf.constant(tensor) for tensor in tensors]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = function(*tensors)
    return outputs, tape.gradient(outputs, tensors, tf.constant(upstream))


def _compute_on_jax(function, tensors, upstream):
    import jax

    outputs, differentiate = jax.vjp(function, *map(jax.numpy.asarray, tensors))
    return outputs, differentiate(jax.numpy.asarray(upstream))


def _compute_on_torch(function, tensors, upstream):
    import torch

    tensors = [torch.tensor(tensor, requires_grad=True) for tensor in tensors]
    outputs = function(*tensors)
    outputs.backward(torch.tensor(upstream))
    return outputs, [tensor.grad for tensor in tensors]
