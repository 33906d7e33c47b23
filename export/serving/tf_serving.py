"""The REST API of TensorFlow Serving.

Answers have the form of TensorFlow Serving's for the SavedModel of the same
export, of whose signatures `serving_default`, `serve` and `image_bytes` are
served. Three things differ. `{"b64": ...}` needs no `signature_name`; without
it, an image in error refuses the request. With `"signature_name":
"image_bytes"`, the probabilities of an image in error are null, because JSON
has no NaN. And the images of a request may be of several sizes.

Reference:
    - https://www.tensorflow.org/tfx/serving/api_rest
"""

from typing import NamedTuple

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

_MODEL = "/v1/models/{name}"
_VERSION = "/v1/models/{name}/versions/{version}"
# The inputs of the signatures have names.
_IMAGES, _FILES = "images", "image_bytes"
_SIGNATURES = {"serving_default": _IMAGES, "serve": _IMAGES, _FILES: _FILES}


class _Form(NamedTuple):
    """How a request is to be answered.

    Attributes:
        images_name: name of the list that its images stood in.
        has_errors: whether the errors of images are an output.
    """

    images_name: str
    has_errors: bool


def make_router(service: Service) -> APIRouter:
    """Returns the routes of a model below /v1."""
    router = APIRouter()

    @router.get(_MODEL)
    @router.get(_VERSION)
    async def get_status(name: str, version: str | None = None) -> Response:
        failed = service.watcher.failed
        states = []
        if failed and version in (None, str(failed.version)):
            states.append(_make_state(failed.version, failed.error))
        if not states or version is None:
            states.append(
                _make_state(service.find_model(name, version).version)
            )
        return make_answer({"model_version_status": states})

    @router.get(f"{_MODEL}/metadata")
    @router.get(f"{_VERSION}/metadata")
    async def get_metadata(name: str, version: str | None = None) -> Response:
        model = service.find_model(name, version)
        spec = {
            "name": name,
            "signature_name": "",
            "version": str(model.version),
        }
        signatures = {"signature_def": _describe_signatures(model.metadata)}
        return make_answer(
            {
                "model_spec": spec,
                "metadata": {"signature_def": signatures},
                # Beyond the protocol: what the outputs mean.
                "classifier": model.metadata,
            }
        )

    @router.post(f"{_MODEL}:predict")
    @router.post(f"{_VERSION}:predict")
    async def predict(
        request: Request, name: str, version: str | None = None
    ) -> Response:
        model = service.find_model(name, version)
        channels = model.metadata["channels"]

        def parse(body):
            return _parse(body, channels, service.limits.max_pixels)

        outcomes, form = await service.classify(request, model, parse)
        if not form.has_errors:
            refuse_errors(outcomes, form.images_name)
        return make_answer(_format(outcomes, form))

    return router


def _make_state(version, error=""):
    code = "INVALID_ARGUMENT" if error else "OK"
    return {
        "version": str(version),
        "state": "END" if error else "AVAILABLE",
        "status": {"error_code": code, "error_message": error},
    }


def _describe_signatures(metadata):
    probabilities = _describe_tensor(
        "probabilities", "DT_FLOAT", [-1, len(metadata["class_names"])]
    )
    errors = _describe_tensor("errors", "DT_STRING", [-1])
    sizes = [-1, -1, -1, metadata["channels"]]
    inputs = {
        _IMAGES: {_IMAGES: _describe_tensor(_IMAGES, "DT_FLOAT", sizes)},
        _FILES: {_FILES: _describe_tensor(_FILES, "DT_STRING", [-1])},
    }
    outputs = {
        _IMAGES: {"probabilities": probabilities},
        _FILES: {"probabilities": probabilities, "errors": errors},
    }
    return {
        name: {
            "inputs": inputs[kind],
            "outputs": outputs[kind],
            "method_name": "tensorflow/serving/predict",
        }
        for name, kind in _SIGNATURES.items()
    }


def _describe_tensor(name, dtype, sizes):
    dimensions = [{"size": str(size), "name": ""} for size in sizes]
    return {
        "dtype": dtype,
        "tensor_shape": {"dim": dimensions, "unknown_rank": False},
        "name": name,
    }


def _parse(body, channels, max_pixels):
    content = parse_object(body)
    names = [name for name in ("instances", "inputs") if name in content]
    if len(names) != 1:
        raise RequestError(
            400,
            "The body must have either instances or inputs. "
            f"Received: {shorten(list(content))}",
        )
    (images_name,) = names
    signature = content.get("signature_name") or "serving_default"
    if signature not in _SIGNATURES:
        raise RequestError(
            400,
            f"signature_name must be one of {', '.join(_SIGNATURES)}. "
            f"Received: {shorten(signature)}",
        )
    images = content[images_name]
    if images_name == "inputs":
        images = _unwrap(images)
    if not isinstance(images, list) or not images:
        raise RequestError(
            400,
            f"{images_name} must be a list of at least one image. "
            f"Received: {shorten(images)}",
        )
    has_errors = signature == _FILES
    parsed = []
    for number, image in enumerate(images):
        where = f"{images_name}[{number}]"
        image = _unwrap(image)
        if isinstance(image, dict) and image.keys() == {"b64"}:
            parsed.append(read_base64(image["b64"], where))
        elif has_errors or not isinstance(image, list):
            raise RequestError(
                400,
                f'{where} must be {{"b64": the contents of an image file in '
                f"base 64}}{'' if has_errors else ' or pixels'}. "
                f"Received: {shorten(image)}",
            )
        else:
            parsed.append(read_pixels(image, channels, max_pixels, where))
    return parsed, _Form(images_name, has_errors)


def _unwrap(value):
    """Returns the value of an input whose name may stand before it."""
    if isinstance(value, dict) and len(value) == 1:
        ((name, inner),) = value.items()
        if name in (_IMAGES, _FILES):
            return inner
    return value


def _format(outcomes, form):
    probabilities = [outcome.probabilities for outcome in outcomes]
    errors = [outcome.error for outcome in outcomes]
    if form.images_name == "inputs":
        if form.has_errors:
            return {
                "outputs": {"probabilities": probabilities, "errors": errors}
            }
        return {"outputs": probabilities}
    if form.has_errors:
        rows = zip(probabilities, errors, strict=True)
        return {
            "predictions": [
                {"probabilities": row, "errors": error} for row, error in rows
            ]
        }
    return {"predictions": probabilities}
