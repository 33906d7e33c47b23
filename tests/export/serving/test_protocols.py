"""What both protocols answer, by the program in a process of its own."""

import json
import re
import struct

import numpy as np
import pytest

from export.preprocessing import prepare_image
from tests.conftest import CLASS_NAMES
from tests.export.serving.conftest import encode
from tests.export.serving.conftest import make_file

FILES = [make_file(20, 31), make_file(16, 16, kind="BMP"), make_file(9, 8)]
BAD = [encode(b"no image"), encode(FILES[0][:99])]
NO_IMAGE = "is no PNG, JPEG, BMP, GIF or WebP image"
DAMAGED = "is damaged or cut off"
B64 = [{"b64": encode(file)} for file in FILES]


@pytest.fixture(scope="session")
def expected(onnx_model):
    """The probabilities of `FILES`."""
    rows, _ = onnx_model.runs["image_bytes"](FILES)
    return rows


@pytest.fixture(scope="session")
def pixels(onnx_model):
    """Images of several sizes, as lists, and their probabilities."""
    random = np.random.default_rng(0)
    images = [
        random.integers(0, 256, (*size, 1)) for size in [(16, 16), (7, 25)]
    ]
    crop_fraction = onnx_model.metadata["crop_fraction"]
    prepared = [prepare_image(i, 16, crop_fraction) for i in images]
    rows = onnx_model.runs["prepared"](np.stack(prepared))
    return [image.tolist() for image in images], rows


def check(rows, expected):
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def make_tensor(data, name="image_bytes", datatype="BYTES", **fields):
    tensor = {"name": name, "datatype": datatype, "data": data}
    return {"inputs": [tensor | {"shape": [len(data)]} | fields]}


@pytest.mark.parametrize("signature", [None, "serving_default", "serve"])
def test_v1_classifies_files_and_pixels(
    onnx_server, expected, pixels, signature
):
    images, rows = pixels
    named = [{"image_bytes": B64[0]}, {"images": images[0]}]
    request = {"signature_name": signature} if signature else {}
    status, answer = onnx_server.predict(
        request | {"instances": [*B64, *images, *named]}
    )
    assert status == 200
    check(
        answer.pop("predictions"),
        [*expected, *rows, expected[0], rows[0]],
    )
    assert answer == {}


def test_v1_answers_columns_with_columns(onnx_server, expected):
    for inputs in (B64, {"image_bytes": B64}):
        status, answer = onnx_server.predict({"inputs": inputs})
        assert status == 200
        check(answer.pop("outputs"), expected)
        assert answer == {}


def test_v1_says_what_is_wrong_with_each_file(onnx_server, expected):
    request = {"signature_name": "image_bytes"}
    files = [B64[0], {"b64": BAD[0]}, B64[1], {"b64": BAD[1]}]
    errors = ["", NO_IMAGE, "", DAMAGED]
    _, answer = onnx_server.predict(request | {"instances": files})
    rows = answer["predictions"]
    assert [row["errors"] for row in rows] == errors
    check([rows[0]["probabilities"], rows[2]["probabilities"]], expected[:2])
    assert rows[1]["probabilities"] == rows[3]["probabilities"] == [None] * 10

    _, answer = onnx_server.predict(request | {"inputs": files})
    outputs = answer["outputs"]
    assert outputs["errors"] == errors
    check(outputs["probabilities"][::2], expected[:2])


def test_v1_describes_the_model(onnx_server, onnx_model):
    for path in ("", "/versions/1"):
        _, answer = onnx_server.ask(f"/v1/models/digits{path}")
        (state,) = answer["model_version_status"]
        assert state == {
            "version": "1",
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
        _, answer = onnx_server.ask(f"/v1/models/digits{path}/metadata")
        assert answer["model_spec"]["version"] == "1"
        assert answer["classifier"] == onnx_model.metadata
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        assert set(signatures) == {"serving_default", "serve", "image_bytes"}


def test_v2_classifies_files(onnx_server, expected):
    data = [encode(file) for file in FILES]
    for version in ("", "/versions/1"):
        status, answer = onnx_server.ask(
            f"/v2/models/digits{version}/infer",
            make_tensor(data) | {"id": "seven"},
        )
        assert status == 200
        (output,) = answer.pop("outputs")
        check(np.reshape(output.pop("data"), output["shape"]), expected)
        assert output == {
            "name": "probabilities",
            "datatype": "FP32",
            "shape": [3, 10],
        }
        assert answer == {
            "id": "seven",
            "model_name": "digits",
            "model_version": "1",
        }


@pytest.mark.parametrize("is_flat", [True, False])
def test_v2_classifies_pixels(onnx_server, pixels, is_flat):
    images, rows = pixels
    data = np.ravel(images[1]).tolist() if is_flat else [images[1]]
    status, answer = onnx_server.infer(
        make_tensor(data, "images", "UINT8", shape=[1, 7, 25, 1])
    )
    assert status == 200
    check(answer["outputs"][0]["data"], rows[1])


def send_binary(server, tensor, binary, **header):
    """Sends what stands behind the JSON, as Triton's clients do."""
    parameters = {"binary_data_size": len(binary)} | header
    text = json.dumps({"inputs": [tensor | {"parameters": parameters}]})
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return server.infer(text.encode() + binary, headers)


def test_v2_takes_binary_data(onnx_server, expected, pixels):
    images, rows = pixels
    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [3]}
    packed = b"".join(struct.pack("<I", len(f)) + f for f in FILES)
    status, answer = send_binary(onnx_server, tensor, packed)
    assert status == 200
    check(np.reshape(answer["outputs"][0]["data"], (3, 10)), expected)

    tensor = {"name": "images", "datatype": "FP32", "shape": [1, 16, 16, 1]}
    binary = np.array(images[0], "<f4").tobytes()
    status, answer = send_binary(onnx_server, tensor, binary)
    assert status == 200
    check(answer["outputs"][0]["data"], rows[0])

    # Too short: the last string, and what is said of all.
    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [3]}
    status, answer = send_binary(onnx_server, tensor, packed[:-1])
    assert (status, list(answer)) == (400, ["error"])
    status, answer = send_binary(
        onnx_server, tensor, packed, binary_data_size=len(packed) + 1
    )
    assert (status, list(answer)) == (400, ["error"])


def test_v2_says_what_is_wrong_with_each_file_if_asked(onnx_server, expected):
    names = [{"name": "errors"}, {"name": "probabilities"}]
    data = [encode(FILES[0]), *BAD]
    status, answer = onnx_server.infer(make_tensor(data) | {"outputs": names})
    assert status == 200
    errors, probabilities = answer["outputs"]
    assert errors["data"] == ["", NO_IMAGE, DAMAGED]
    check(probabilities["data"][:10], expected[0])
    assert probabilities["data"][10:] == [None] * 20


def test_v2_describes_server_and_model(onnx_server, onnx_model):
    assert onnx_server.ask("/v2/health/live") == (200, {"live": True})
    assert onnx_server.ask("/v2/health/ready") == (200, {"ready": True})
    _, answer = onnx_server.ask("/v2")
    assert answer["name"] == "lambda_keras"
    _, answer = onnx_server.ask("/v2/models/digits/ready")
    assert answer == {"name": "digits", "ready": True}
    _, answer = onnx_server.ask("/v2/models/digits")
    assert answer["versions"] == ["1"]
    assert answer["platform"] == "onnx"
    assert answer["classifier"]["class_names"] == CLASS_NAMES
    shapes = {t["name"]: t["shape"] for t in answer["inputs"]}
    assert shapes == {"image_bytes": [-1], "images": [-1, -1, -1, 1]}
    shapes = {t["name"]: t["shape"] for t in answer["outputs"]}
    assert shapes == {"probabilities": [-1, 10], "errors": [-1]}


V1_ERRORS = {
    "no JSON": (b"\x89PNG", "body must be JSON"),
    "no object": ([1], "must be a JSON object"),
    "nothing": ({}, "either instances or inputs"),
    "both": ({"instances": B64, "inputs": B64}, "either instances or inputs"),
    "no list": ({"instances": B64[0]}, "list of at least one image"),
    "empty list": ({"instances": []}, "list of at least one image"),
    "empty column": (
        {"inputs": {"image_bytes": []}},
        "list of at least one image",
    ),
    "signature": (
        {"signature_name": "classify", "instances": B64},
        "signature_name must be one of serving_default, serve, image_bytes",
    ),
    "no base 64": (
        {"instances": [{"b64": "***"}]},
        r"instances\[0\] must be the contents of .* base 64",
    ),
    "no text": ({"instances": [{"b64": 7}]}, "in base 64. Received: 7"),
    "text": ({"instances": [encode(FILES[0])]}, 'must be {"b64": '),
    "pixels of files": (
        {"signature_name": "image_bytes", "instances": [[[[1]]]]},
        'must be {"b64": .*base 64}. Rec',
    ),
    "no image": (
        {"instances": [B64[0], {"b64": BAD[0]}]},
        rf"^instances\[1\] {NO_IMAGE}\.$",
    ),
    "many": (
        {"instances": [{"b64": BAD[1]}] * 5},
        rf"^(instances\[.\] {DAMAGED}; ){{3}}2 more are wrong\.$",
    ),
    "ragged": ({"instances": [[[[1]], [[1], [2]]]]}, "numbers of shape"),
    "channels": ({"instances": [[[[1, 2, 3]]]]}, r"\(height, width, 1\)"),
    "flat": ({"instances": [[1, 2, 3]]}, "numbers of shape"),
    "strings": ({"instances": [[[["1"]]]]}, "numbers of shape"),
    "no numbers": (b'{"instances": [[[[NaN]]]]}', "must be JSON"),
    "huge numbers": ({"instances": [[[[1e300]]]]}, "numbers of shape"),
    "deep": (b"[" * 5000, "must be JSON"),
}


V2_ERRORS = {
    "no JSON": (b"", "body must be JSON"),
    "no inputs": ({}, "inputs must be a list of one tensor"),
    "two inputs": (
        {"inputs": make_tensor(BAD)["inputs"] * 2},
        "inputs must be a list of one tensor",
    ),
    "name": (make_tensor(BAD, "x"), "image_bytes of datatype BYTES, or images"),
    "datatype": (make_tensor(BAD, datatype="FP32"), "datatype BYTES, or"),
    "unknown datatype": (make_tensor([1], "images", "BF16"), "such as FP32"),
    "shape": (make_tensor(BAD, shape=[1, 2]), "shape must be 1 sizes"),
    "negative": (make_tensor(BAD, shape=[-1]), "shape must be 1 sizes"),
    "count": (make_tensor(BAD, shape=[3]), r"shape must be \[2\]"),
    "no data": (make_tensor("text"), "data must be a list"),
    "no base 64": (make_tensor(["%"]), r"data\[0\] must be the contents"),
    "no image": (make_tensor(BAD), rf"^images\[0\] {NO_IMAGE}; images\[1\]"),
    "empty": (make_tensor([]), "at least one image"),
    "few pixels": (
        make_tensor([1], "images", "FP32", shape=[1, 2, 2, 1]),
        "must have 4 values of FP32",
    ),
    "channels": (
        make_tensor([1, 2], "images", "FP32", shape=[1, 1, 1, 2]),
        r"images\[0\] must be numbers of shape \(height, width, 1\)",
    ),
    "no pixels": (
        make_tensor([], "images", "FP32", shape=[1, 0, 1, 1]),
        "must be numbers of shape",
    ),
    "outputs": (
        make_tensor(BAD) | {"outputs": [{"name": "logits"}]},
        "outputs must be of probabilities, errors",
    ),
    "names of outputs": (
        make_tensor(BAD) | {"outputs": ["probabilities"]},
        "outputs must be of probabilities, errors",
    ),
    "not in JSON": (
        make_tensor(BAD, parameters={"binary_data_size": 3}),
        "binary_data_size must be the number of bytes",
    ),
}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        pytest.param(path, *error, id=f"{version} {name}")
        for version, path, errors in (
            ("v1", "/v1/models/digits:predict", V1_ERRORS),
            ("v2", "/v2/models/digits/infer", V2_ERRORS),
        )
        for name, error in errors.items()
    ],
)
def test_bad_bodies_are_refused(onnx_server, path, body, message):
    status, answer = onnx_server.ask(path, body)
    assert status == 400
    assert set(answer) == {"error"}
    assert re.search(message, answer["error"])
    assert len(answer["error"]) < 500


@pytest.mark.parametrize(
    ("method_and_path", "status"),
    [
        ("POST /v1/models/other:predict", 404),
        ("POST /v1/models/digits/versions/2:predict", 404),
        ("POST /v1/models/digits/versions/latest:predict", 404),
        ("POST /v1/models/digits:classify", 405),
        ("GET /v1/models/digits:predict", 404),
        ("GET /v1/models/other", 404),
        ("GET /v1/models/digits/versions/2", 404),
        ("GET /v1/models/other/metadata", 404),
        ("POST /v2/models/other/infer", 404),
        ("POST /v2/models/digits/versions/2/infer", 404),
        ("GET /v2/models/other", 404),
        ("GET /v2/models/other/ready", 404),
        ("GET /docs", 404),
        ("POST /metrics", 405),
    ],
)
def test_unknown_paths_are_refused(onnx_server, method_and_path, status):
    method, path = method_and_path.split()
    body = {"instances": B64} if method == "POST" else None
    found, answer = onnx_server.ask(path, body)
    assert (found, list(answer)) == (status, ["error"])
