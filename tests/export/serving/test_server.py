"""How the program holds out: too much at once, bad clients, new models."""

import concurrent.futures
import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from benchmarks.server_process import read_metric
from benchmarks.server_process import start_server
from export import serve
from export.command_line import InputError
from export.exported_model import open_model
from tests.export.serving.conftest import Client
from tests.export.serving.conftest import encode
from tests.export.serving.conftest import make_file

FILES = [make_file(16, 16, seed) for seed in range(24)]


def make_request(*files):
    return {"instances": [{"b64": encode(file)} for file in files]}


def wait_until(is_so, seconds=10):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "It does not become so."
        time.sleep(0.01)


@contextlib.contextmanager
def connect(server, path, body, num_bytes=None):
    """Sends a request, or its head and a number of bytes of its body."""
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
        client.sendall(head.encode() + b"\r\n\r\n" + body[:num_bytes])
        yield client


def test_many_clients_get_their_own_answers(onnx_server, onnx_model):
    expected, _ = onnx_model.runs["image_bytes"](FILES)
    name = "lambda_keras_batch_size"
    batches = read_metric(onnx_server.address, f"{name}_count")
    images = read_metric(onnx_server.address, f"{name}_sum")

    def ask(number):
        # Every fourth one is bad.
        if number % 4 == 3:
            return onnx_server.predict(make_request(FILES[number][:99]))[0]
        _, answer = onnx_server.predict(make_request(FILES[number]))
        return answer["predictions"][0]

    # Fewer than may wait.
    with concurrent.futures.ThreadPoolExecutor(6) as clients:
        for _ in range(5):
            answers = list(clients.map(ask, range(len(FILES))))
            for number, answer in enumerate(answers):
                if number % 4 == 3:
                    assert answer == 400
                else:
                    np.testing.assert_allclose(
                        answer, expected[number], atol=1e-5
                    )
    batches = read_metric(onnx_server.address, f"{name}_count") - batches
    images = read_metric(onnx_server.address, f"{name}_sum") - images
    assert images == 5 * 18
    assert batches < images
    assert read_metric(onnx_server.address, "lambda_keras_waiting_images") == 0


def test_thousand_images_at_once_leave_room_for_others(onnx_server, onnx_model):
    expected, _ = onnx_model.runs["image_bytes"](FILES[:5])
    many = make_request(*(FILES[:5] * 200))
    with concurrent.futures.ThreadPoolExecutor(1) as clients:
        large = clients.submit(onnx_server.predict, many)
        statuses = []
        while not large.done():
            statuses.append(onnx_server.predict(make_request(FILES[0]))[0])
    assert set(statuses) == {200}
    assert len(statuses) > 5
    status, answer = large.result()
    assert status == 200
    np.testing.assert_allclose(
        answer["predictions"], np.tile(expected, (200, 1)), atol=1e-5
    )


def test_more_than_may_wait_are_told_to_come_later(onnx_server):
    many = make_request(*(FILES[:5] * 80))
    with concurrent.futures.ThreadPoolExecutor(3) as clients:
        large = [clients.submit(onnx_server.predict, many) for _ in range(3)]
        statuses = set()
        while not all(answer.done() for answer in large):
            status, answer = onnx_server.predict(make_request(FILES[0]))
            statuses.add(status)
            if status == 503:
                assert answer == {
                    "error": "Too many images wait. Ask again later."
                }
    # There are as many as may wait, but for moments.
    assert 503 in statuses
    statuses |= {future.result()[0] for future in large}
    assert statuses == {200, 503}
    assert onnx_server.predict(make_request(FILES[0]))[0] == 200


def test_body_that_is_too_large_is_refused(onnx_server):
    limit = "The body must have at most 1048576 bytes."
    body = b" " * (2**20 + 1)
    for path in ("/v1/models/digits:predict", "/v2/models/digits/infer"):
        assert onnx_server.ask(path, body) == (413, {"error": limit})
    # Of unknown size, with which it would be read for nothing.
    chunked = {"Transfer-Encoding": "chunked"}
    chunk = b"%x\r\n%b\r\n" % (len(body), body)
    answer = onnx_server.ask(
        "/v1/models/digits:predict", chunk + b"0\r\n\r\n", chunked
    )
    assert answer == (413, {"error": limit})
    # Who asks before sending is told at once.
    expect = {"Content-Length": str(10**15), "Expect": "100-continue"}
    answer = onnx_server.ask("/v1/models/digits:predict", b"", expect)
    assert answer == (413, {"error": limit})


def test_image_of_too_many_pixels_is_refused(onnx_server):
    for image in (
        {"b64": encode(make_file(101, 100))},
        np.zeros((101, 100, 1), int).tolist(),
    ):
        status, answer = onnx_server.predict({"instances": [image]})
        assert status == 413
        assert answer == {"error": "instances[0] has more than 10000 pixels."}
    request = make_request(make_file(100, 100))
    assert onnx_server.predict(request)[0] == 200
    # One image is no image at all.
    request = make_request(make_file(101, 100), b"")
    assert onnx_server.predict(request)[0] == 400


def test_slow_client_is_told_and_costs_others_nothing(onnx_server):
    body = json.dumps(make_request(FILES[0])).encode()
    with connect(onnx_server, "/v1/models/digits:predict", body, 40) as slow:
        assert onnx_server.predict(make_request(FILES[0]))[0] == 200
        answer = b""
        while not answer.endswith(b"}"):
            answer += slow.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 408")
    assert answer.endswith(b'{"error":"The body must come in 1 seconds."}')


def test_client_that_hangs_up_costs_nothing_more(onnx_server):
    def count():
        name = 'lambda_keras_images_total{outcome="classified"}'
        return read_metric(onnx_server.address, name)

    before = count()
    path = "/v1/models/digits:predict"
    # In the middle of its body, and while it is answered.
    body = json.dumps(make_request(*(FILES[:5] * 300))).encode()
    with connect(onnx_server, path, body, len(body) // 2):
        pass
    with connect(onnx_server, path, body):
        wait_until(lambda: count() > before)
    name = "lambda_keras_waiting_images"
    wait_until(lambda: read_metric(onnx_server.address, name) == 0)
    after = count()
    assert before < after < before + 1500
    name = 'lambda_keras_requests_total{protocol="v1",status="499"}'
    wait_until(lambda: read_metric(onnx_server.address, name) == 2)
    assert onnx_server.predict(make_request(FILES[0]))[0] == 200
    assert count() == after + 1


@pytest.fixture
def replaceable(export_dir, tmp_path):
    """A server of a copy, and the path of the copy."""
    path = tmp_path / "model.tflite"
    shutil.copy(export_dir / path.name, path)
    with start_server(path, "--poll_seconds=0.1", stderr=subprocess.PIPE) as (
        address,
        process,
    ):
        yield Client(address, process), path


def replace(path, contents):
    temporary = path.with_suffix(".new")
    temporary.write_bytes(contents)
    temporary.rename(path)


def test_model_is_replaced_while_it_serves(replaceable, export_dir):
    server, path = replaceable
    other = export_dir / "model_int8.tflite"
    request = make_request(FILES[0])

    def predict():
        status, answer = server.ask("/v1/models/default:predict", request)
        assert status == 200
        return answer["predictions"][0]

    def get_states():
        _, answer = server.ask("/v1/models/default")
        states = answer["model_version_status"]
        return [(state["version"], state["state"]) for state in states]

    before = predict()
    # Written over in place, which would change a file that is mapped.
    path.write_bytes(b"damaged" * 9999)
    wait_until(lambda: len(get_states()) == 2)
    assert get_states() == [("2", "END"), ("1", "AVAILABLE")]
    _, answer = server.ask("/v1/models/default/versions/2")
    (state,) = answer["model_version_status"]
    assert "--model must be written by" in state["status"]["error_message"]
    assert predict() == before
    path.unlink()

    replace(path, other.read_bytes())
    wait_until(lambda: get_states() == [("3", "AVAILABLE")])
    after = predict()
    expected, _ = open_model(other).runs["image_bytes"]([FILES[0]])
    np.testing.assert_allclose(after, expected[0], atol=1e-5)
    assert np.abs(np.subtract(after, before)).max() > 1e-4
    status, answer = server.ask("/v1/models/default/versions/1:predict", b"")
    assert (status, answer) == (
        404,
        {"error": "The version must be 3. Received: 1"},
    )
    server.process.terminate()
    assert server.process.wait(timeout=30) == 0
    # LiteRT says of itself what it does.
    lines = server.process.stderr.read().splitlines()
    first, second = [line for line in lines if line.startswith("Version")]
    assert first.startswith("Version 2 is not used: --model must be written")
    assert first.endswith("Version 1 goes on.")
    assert second == "Version 3 is used from now on."


def test_requests_in_progress_are_answered_before_the_end(replaceable):
    server, _ = replaceable
    body = json.dumps(make_request(*(FILES * 40))).encode()
    path = "/v1/models/default:predict"
    with connect(server, path, body) as client:
        name = 'lambda_keras_images_total{outcome="classified"}'
        wait_until(lambda: read_metric(server.address, name) > 0)
        server.process.send_signal(signal.SIGINT)
        answer = b""
        while received := client.recv(2**20):
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert len(json.loads(body)["predictions"]) == len(FILES) * 40
    assert server.process.wait(timeout=30) == 130
    assert "Traceback" not in server.process.stderr.read()


def test_saved_model_is_served_one_by_one(export_dir, onnx_model):
    path = export_dir / "saved_model"
    with start_server(path, "--max_batch_size=1") as server:
        client = Client(*server)
        request = make_request(*FILES[:3])
        _, answer = client.ask("/v1/models/default:predict", request)
        rows = answer["predictions"]
        batches = read_metric(client.address, "lambda_keras_batch_size_count")
        images = read_metric(client.address, "lambda_keras_batch_size_sum")
    expected, _ = onnx_model.runs["image_bytes"](FILES[:3])
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert batches == images == 3


def test_metrics_name_what_was_done(onnx_server):
    status, _ = onnx_server.infer({})
    assert status == 400
    connection = http.client.HTTPConnection(onnx_server.address)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.headers["content-type"].startswith("text/plain")
    assert 'requests_total{protocol="v2",status="400"}' in text
    assert "lambda_keras_model_version 1.0" in text
    assert "process_resident_memory_bytes" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model must be given. See --help."),
        (["--model=none", "--port=0"], "--model must be a SavedModel folder"),
        (["--model=none", "--port=70000"], "--host and --port must be"),
        (["--model=none", "--host=192.0.2.1"], "--host and --port must be"),
        (["--model=none", "--model_name=a/b"], "--model_name must be letters"),
        (["--model=none", "--max_batch_size=0"], "--max_batch_size: must be"),
        (["--model=none", "--poll_seconds=nan"], "--poll_seconds: must be a n"),
        (["--model=none", "--max_pixels=99999999"], "--max_pixels must be at"),
        (["--model=none", "--port=x"], "--port: invalid int"),
        (["--models=none"], "unrecognized arguments: --models=none"),
    ],
)
def test_wrong_flags_are_one_line(arguments, message):
    with pytest.raises(InputError) as error:
        serve.main(arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_port_in_use_is_one_line(onnx_server):
    _, port = onnx_server.address.split(":")
    with pytest.raises(InputError, match="Address already in use"):
        serve.main(["--model=none", f"--port={port}"])
