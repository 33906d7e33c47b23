"""The SavedModel as TensorFlow Serving and its clients use it.

TensorFlow Serving loads a SavedModel into a session and feeds and fetches the
tensors that a signature names; so does this, with the messages of its clients.
"""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import predict_pb2

from export.exported_model import open_model
from tests.export.serving.conftest import make_file

FILES = [make_file(20, 31), b"no image", make_file(16, 16)]


@pytest.fixture(scope="module")
def serve(export_dir):
    """A function from a request to its answer, and the signatures."""
    with tf.Graph().as_default() as graph:
        session = tf.compat.v1.Session()
        meta_graph = tf.compat.v1.saved_model.load(
            session, ["serve"], str(export_dir / "saved_model")
        )
    assert session.graph is graph
    signatures = meta_graph.signature_def

    def serve(request):
        # Over the network and back.
        request = predict_pb2.PredictRequest.FromString(
            request.SerializeToString()
        )
        signature = signatures[request.model_spec.signature_name]
        assert set(request.inputs) == set(signature.inputs)
        for name, tensor in request.inputs.items():
            info = signature.inputs[name]
            assert tensor.dtype == info.dtype
            shape = tf.TensorShape(tensor.tensor_shape)
            assert shape.is_compatible_with(info.tensor_shape)
        outputs = session.run(
            {name: info.name for name, info in signature.outputs.items()},
            {
                signature.inputs[name].name: tf.make_ndarray(tensor)
                for name, tensor in request.inputs.items()
            },
        )
        response = predict_pb2.PredictResponse()
        for name, output in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(output))
        return response

    yield serve, signatures
    session.close()


def make_request(signature_name, **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "digits"
    request.model_spec.signature_name = signature_name
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def read(response, name):
    return tf.make_ndarray(response.outputs[name])


@pytest.fixture(scope="module")
def expected(export_dir):
    model = open_model(export_dir / "model.onnx")
    rows, _ = model.runs["image_bytes"](FILES)
    return rows


def test_files_are_classified(serve, expected):
    answer, _ = serve
    response = answer(make_request("image_bytes", image_bytes=FILES))
    np.testing.assert_allclose(
        read(response, "probabilities"), expected, atol=1e-5
    )
    first, second, third = read(response, "errors")
    assert first == third == b""
    assert second.startswith(b"is no PNG, JPEG, BMP, GIF or WebP image")


def test_images_are_classified(serve, expected):
    answer, _ = serve
    pixels = tf.io.decode_png(FILES[0])[None]
    request = make_request(
        "serving_default", images=pixels.numpy().astype("float32")
    )
    np.testing.assert_allclose(
        read(answer(request), "probabilities"), expected[:1], atol=1e-5
    )


def test_metadata_has_all_signatures(serve):
    """As the client's message for metadata carries them."""
    _, signatures = serve
    signature_map = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in signatures.items():
        signature_map.signature_def[name].CopyFrom(signature)
    metadata = get_model_metadata_pb2.GetModelMetadataResponse()
    metadata.metadata["signature_def"].Pack(signature_map)
    unpacked = get_model_metadata_pb2.SignatureDefMap()
    metadata.metadata["signature_def"].Unpack(unpacked)
    names = {"serving_default", "serve", "image_bytes", "prepared", "features"}
    assert names <= set(unpacked.signature_def)
    for name in names:
        method = unpacked.signature_def[name].method_name
        assert method == "tensorflow/serving/predict"


def read_tensors(tensors):
    return {
        name: (
            tensor["dtype"],
            [axis["size"] for axis in tensor["tensor_shape"]["dim"]],
        )
        for name, tensor in tensors.items()
    }


def test_server_describes_the_same_signatures(serve, onnx_server):
    _, signatures = serve
    _, answer = onnx_server.ask("/v1/models/digits/metadata")
    described = answer["metadata"]["signature_def"]["signature_def"]
    assert set(described) == {"serving_default", "serve", "image_bytes"}
    for name, signature in described.items():
        actual = json_format.MessageToDict(
            signatures[name], preserving_proto_field_name=True
        )
        assert signature["method_name"] == actual["method_name"]
        for side in ("inputs", "outputs"):
            assert read_tensors(signature[side]) == read_tensors(actual[side])
