"""One server that the tests of this folder share, with a client for it."""

import base64
import http.client
import io
import json

import numpy as np
import PIL.Image
import pytest

from benchmarks.server_process import start_server
from export.exported_model import open_model

# Small, so that each is reached soon.
LIMITS = ("--max_batch_size=4", "--max_queue=12", "--max_body_mib=1")
LIMITS += ("--max_pixels=10000", "--body_seconds=1", "--decoders=2")


class Client:
    """Asks a server.

    Args:
        address: `host:port`.
        process: of the server.
    """

    def __init__(self, address, process):
        self.address = address
        self.process = process

    def ask(self, path, body=None, headers=None):
        """Posts a body, as JSON unless it is bytes, or gets without one.

        Returns:
            The status code, and the parsed answer.
        """
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.address, timeout=60)
        method = "GET" if body is None else "POST"
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        assert response.headers["content-type"] == "application/json"
        assert b"\n" not in text
        is_later = response.headers["retry-after"] == "1"
        assert is_later == (response.status == 503)
        return response.status, json.loads(text)

    def predict(self, body):
        return self.ask("/v1/models/digits:predict", body)

    def infer(self, body, headers=None):
        return self.ask("/v2/models/digits/infer", body, headers)


@pytest.fixture(scope="session")
def onnx_server(export_dir):
    with start_server(
        export_dir / "model.onnx", "--model_name=digits", *LIMITS
    ) as (address, process):
        yield Client(address, process)


@pytest.fixture(scope="session")
def onnx_model(export_dir):
    return open_model(export_dir / "model.onnx")


def make_file(height, width, seed=0, kind="PNG"):
    """Returns an image file of noise."""
    random = np.random.default_rng((height, width, seed))
    pixels = random.integers(0, 256, (height, width), "uint8")
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def encode(contents):
    return base64.b64encode(contents).decode()
