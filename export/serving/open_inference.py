"""The Open Inference Protocol, also known as KServe's V2, over HTTP.

Inputs are either `image_bytes`, BYTES of shape `[images]`, in base 64 where
they stand in JSON, or `images`, numbers of shape `[images, height, width,
channels]`. Either may stand behind the JSON, as Triton's extension for binary
data has it. Outputs are `probabilities` and, only if they are asked for,
`errors`: then an image in error is a row of null, and does not refuse the
request.

Reference:
    - https://github.com/kserve/open-inference-protocol
    - https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import importlib.metadata
import math
import struct
from typing import NamedTuple

import numpy as np
from fastapi import APIRouter
from fastapi import Request
from fastapi import Response

from export.serving.answers import make_answer
from export.serving.answers import parse_object
from export.serving.answers import refuse_errors
from export.serving.images import read_base64
from export.serving.images import read_pixels
from export.serving.images import shorten
from export.serving.request_error import RequestError
from export.serving.service import Service

_MODEL = "/v2/models/{name}"
_VERSION = "/v2/models/{name}/versions/{version}"
_IMAGES, _FILES = "images", "image_bytes"
_OUTPUTS = ("probabilities", "errors")
_HEADER_SIZE = "inference-header-content-length"
_DTYPES = {
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
}


class _Form(NamedTuple):
    """How a request is to be answered.

    Attributes:
        id: what the client calls it, or `None`.
        outputs: names of those that it asks for.
    """

    id: str | None
    outputs: list[str]


def make_router(service: Service) -> APIRouter:
    """Returns the routes of a model below /v2."""
    router = APIRouter()

    @router.get("/v2")
    async def describe_server() -> Response:
        return make_answer(
            {
                "name": "lambda_keras",
                "version": _find_package_version(),
                "extensions": ["binary_tensor_data"],
            }
        )

    @router.get("/v2/health/live")
    async def get_live() -> Response:
        return make_answer({"live": True})

    @router.get("/v2/health/ready")
    async def get_ready() -> Response:
        return make_answer({"ready": True})

    @router.get(f"{_MODEL}/ready")
    @router.get(f"{_VERSION}/ready")
    async def get_model_ready(
        name: str, version: str | None = None
    ) -> Response:
        service.find_model(name, version)
        return make_answer({"name": name, "ready": True})

    @router.get(_MODEL)
    @router.get(_VERSION)
    async def get_metadata(name: str, version: str | None = None) -> Response:
        return make_answer(_describe(name, service.find_model(name, version)))

    @router.post(f"{_MODEL}/infer")
    @router.post(f"{_VERSION}/infer")
    async def infer(
        request: Request, name: str, version: str | None = None
    ) -> Response:
        model = service.find_model(name, version)
        channels = model.metadata["channels"]
        header_size = request.headers.get(_HEADER_SIZE)

        def parse(body):
            return _parse(
                body, header_size, channels, service.limits.max_pixels
            )

        outcomes, form = await service.classify(request, model, parse)
        if "errors" not in form.outputs:
            refuse_errors(outcomes, "images")
        answer = {"model_name": name, "model_version": str(model.version)}
        if form.id is not None:
            answer["id"] = form.id
        answer["outputs"] = [
            _format(output, outcomes) for output in form.outputs
        ]
        return make_answer(answer)

    return router


def _find_package_version():
    try:
        return importlib.metadata.version("lambda-keras")
    # Of a copy of the folder, none is known.
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _describe(name, model):
    channels = model.metadata["channels"]
    num_classes = len(model.metadata["class_names"])
    return {
        "name": name,
        "versions": [str(model.version)],
        "platform": model.format.name,
        # Only one of them is to be sent.
        "inputs": [
            {"name": _FILES, "datatype": "BYTES", "shape": [-1]},
            {
                "name": _IMAGES,
                "datatype": "FP32",
                "shape": [-1, -1, -1, channels],
            },
        ],
        "outputs": [
            {
                "name": "probabilities",
                "datatype": "FP32",
                "shape": [-1, num_classes],
            },
            {"name": "errors", "datatype": "BYTES", "shape": [-1]},
        ],
        # Beyond the protocol: what the outputs mean.
        "classifier": model.metadata,
    }


def _format(name, outcomes):
    if name == "errors":
        return {
            "name": name,
            "datatype": "BYTES",
            "shape": [len(outcomes)],
            "data": [outcome.error for outcome in outcomes],
        }
    rows = np.stack([outcome.probabilities for outcome in outcomes])
    return {
        "name": name,
        "datatype": "FP32",
        "shape": rows.shape,
        "data": rows.ravel(),
    }


def _parse(body, header_size, channels, max_pixels):
    content, binary = _split(body, header_size)
    tensor = _find_input(content)
    data = _find_data(tensor, binary)
    if tensor["name"] == _FILES:
        images = _read_files(tensor, data)
    else:
        images = _read_images(tensor, data, channels, max_pixels)
    if not images:
        raise RequestError(400, "The input must have at least one image.")
    return images, _Form(content.get("id"), _find_outputs(content))


def _split(body, header_size):
    """Returns the JSON of a body, and the bytes behind it."""
    if header_size is None:
        return parse_object(body), None
    if not header_size.isdecimal() or int(header_size) > len(body):
        raise RequestError(
            400,
            "Inference-Header-Content-Length must be the size of the JSON in "
            f"the body. Received: {shorten(header_size)}",
        )
    size = int(header_size)
    return parse_object(body[:size]), bytes(body[size:])


def _find_input(content):
    tensors = content.get("inputs")
    if (
        not isinstance(tensors, list)
        or len(tensors) != 1
        or not isinstance(tensors[0], dict)
    ):
        raise RequestError(
            400,
            f"inputs must be a list of one tensor, {_FILES} or {_IMAGES}.",
        )
    (tensor,) = tensors
    name, datatype = tensor.get("name"), tensor.get("datatype")
    if (name, datatype) != (_FILES, "BYTES") and (
        name != _IMAGES or datatype not in _DTYPES
    ):
        raise RequestError(
            400,
            f"The input must be {_FILES} of datatype BYTES, or {_IMAGES} of "
            f"numbers, such as FP32. Received: {shorten(name)} of "
            f"{shorten(datatype)}",
        )
    shape = tensor.get("shape")
    num_axes = 1 if name == _FILES else 4
    if (
        not isinstance(shape, list)
        or len(shape) != num_axes
        or not all(type(size) is int and size >= 0 for size in shape)
    ):
        raise RequestError(
            400,
            f"shape must be {num_axes} sizes. Received: {shorten(shape)}",
        )
    return tensor


def _find_data(tensor, binary):
    """Returns a list, or the bytes behind the JSON."""
    parameters = tensor.get("parameters")
    size = isinstance(parameters, dict) and parameters.get("binary_data_size")
    if size in (None, False):
        data = tensor.get("data")
        if isinstance(data, list):
            return data
        raise RequestError(
            400, f"data must be a list. Received: {shorten(data)}"
        )
    # Of one tensor, it is all of it.
    if binary is None or size != len(binary):
        raise RequestError(
            400,
            "binary_data_size must be the number of bytes behind the JSON, "
            f"{len(binary or b'')}. Received: {shorten(size)}",
        )
    return binary


def _read_files(tensor, data):
    (count,) = tensor["shape"]
    if isinstance(data, bytes):
        files = _split_strings(data)
    else:
        files = [read_base64(text, f"data[{n}]") for n, text in enumerate(data)]
    if len(files) != count:
        raise RequestError(
            400, f"shape must be [{len(files)}] as data is. Received: [{count}]"
        )
    return files


def _split_strings(data):
    """Returns strings, each of which has its size before it."""
    strings, begin = [], 0
    while begin < len(data):
        (size,) = struct.unpack_from("<I", data.ljust(begin + 4), begin)
        begin += 4 + size
        if begin > len(data):
            raise RequestError(
                400, "Binary data of BYTES must be sizes and strings."
            )
        strings.append(data[begin - size : begin])
    return strings


def _read_images(tensor, data, channels, max_pixels):
    shape, dtype = tensor["shape"], np.dtype(_DTYPES[tensor["datatype"]])
    try:
        if isinstance(data, bytes):
            values = np.frombuffer(data, dtype.newbyteorder("<"))
        else:
            # Flat, or in lists as the shape is.
            values = np.asarray(data).ravel()
        values = values.reshape(shape)
    except ValueError as error:
        raise RequestError(
            400,
            f"data must have {math.prod(shape)} values of "
            f"{tensor['datatype']}, by its shape.",
        ) from error
    return [
        read_pixels(image, channels, max_pixels, f"images[{number}]")
        for number, image in enumerate(values)
    ]


def _find_outputs(content):
    outputs = content.get("outputs") or [{"name": "probabilities"}]
    try:
        names = [output["name"] for output in outputs]
    # Of no list, or of what are no objects with names.
    except (TypeError, KeyError):
        names = [None]
    if not all(name in _OUTPUTS for name in names):
        raise RequestError(
            400,
            f"outputs must be of {', '.join(_OUTPUTS)}. "
            f"Received: {shorten(outputs)}",
        )
    return names
