"""Graphs of TensorFlow, which unroll blocks, do not grow without bounds."""

import keras
import pytest

import lambda_keras

if keras.backend.backend() != "tensorflow":
    pytest.skip("Needs the backend TensorFlow.", allow_module_level=True)

import tensorflow as tf


def count_operations(function):
    """Counts those of a concrete function and of all that it calls."""
    graph = function.graph.as_graph_def()
    return len(graph.node) + sum(
        len(called.node_def) for called in graph.library.function
    )


def test_graph_of_a_large_map_and_any_batch_is_small():
    layer = lambda_keras.LambdaLayer(32)
    layer.build((None, 64, 64, 16))

    @tf.function(input_signature=[tf.TensorSpec((None, 64, 64, 16))])
    def call(inputs):
        return layer(inputs, training=False)

    assert count_operations(call.get_concrete_function()) < 400
