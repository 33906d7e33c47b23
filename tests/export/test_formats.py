"""What the writers of formats make of networks that are hard to convert."""

import keras
import numpy as np
import onnx
import pytest

import lambda_keras
from export.formats import onnx as onnx_format
from export.formats import tflite
from export.formats import tflite_int8
from export.trained_classifier import Classifier
from lambda_keras import functional


def make_classifier(inputs, x):
    model = keras.Model(inputs, x)
    return Classifier(model, ["a", "b"], crop_fraction=1.0)


def classify_maps(size, layer):
    """Returns a classifier of maps of a size, which has a layer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(8, 1)(inputs)
    x = layer(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.ops.relu(x))
    return make_classifier(inputs, keras.layers.Dense(2)(x))


class _ContentLambda(keras.layers.Layer):
    """Makes the content lambda of keys and values, `(b, ..., k + v)`."""

    def call(self, inputs):
        inputs = keras.ops.reshape(inputs, (-1, 56 * 56, 1, 1, 24))
        return functional.compute_content_lambda(
            inputs[..., :16], inputs[..., 16:], "softmax"
        )[:, 0]


@pytest.mark.slow
def test_content_lambda_of_integers_is_precise(tmp_path):
    random = np.random.default_rng(1)
    images = random.normal(size=(16, 56, 56, 24)).astype("float32")
    # Values have a mean.
    images[..., 16:] += random.normal(size=8)
    inputs = keras.Input(images.shape[1:])
    classifier = make_classifier(inputs, _ContentLambda()(inputs))
    path = tmp_path / "content.tflite"
    tflite_int8.write(classifier, path, images[8:])

    counts = tflite.count_operators(path)
    assert counts["float"] == {}
    assert {"EXP", "DIV"} <= set(counts["all"])
    assert not {"GREATER", "SELECT", "SELECT_V2"} & set(counts["all"])
    outputs = tflite.load(path)["prepared"](images[:8])
    expected = keras.ops.convert_to_numpy(classifier.model(images[:8]))
    # 0.026 with the product of a reciprocal.
    error = np.linalg.norm(outputs - expected) / np.linalg.norm(expected)
    assert error < 0.018


@pytest.mark.slow
def test_layer_that_is_a_loop_elsewhere_computes_with_integers(tmp_path):
    classifier = classify_maps(32, lambda_keras.LambdaLayer(32))
    images = np.random.default_rng(0).normal(size=(12, 32, 32, 3))
    images = images.astype("float32")
    paths = [tmp_path / "float.tflite", tmp_path / "int8.tflite"]
    tflite.write(classifier, paths[0], None)
    tflite_int8.write(classifier, paths[1], images[8:])
    counts = [tflite.count_operators(path) for path in paths]
    assert "WHILE" in counts[0]["all"]
    assert "WHILE" not in counts[1]["all"]
    assert counts[1]["float"] == {}
    outputs = tflite.load(paths[1])["prepared"](images[:8])
    expected = keras.ops.convert_to_numpy(classifier.model(images[:8]))
    spread = expected.std(axis=0).min()
    np.testing.assert_allclose(outputs, expected, atol=spread / 2)


def count_nodes(graph):
    subgraphs = [
        attribute.g
        for node in graph.node
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.GRAPH
    ]
    return len(graph.node) + sum(map(count_nodes, subgraphs))


@pytest.mark.slow
def test_onnx_of_large_maps_is_a_small_graph(tmp_path):
    classifier = classify_maps(64, lambda_keras.LambdaLayer(16, key_dim=4))
    path = tmp_path / "model.onnx"
    onnx_format.write(classifier, path, None)
    # 1,256 where each row was a block.
    assert count_nodes(onnx.load(path).graph) < 300
    assert path.stat().st_size < 4e6
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3))
    images = images.astype("float32")
    np.testing.assert_allclose(
        onnx_format.load(path)["prepared"](images),
        classifier.model(images),
        rtol=1e-4,
    )
