r"""Loads the server with many clients at once, batched and not.

    python -m benchmarks.serving --model=runs/digits/export/saved_model

starts `python -m export.serve` twice, as it is and with --max_batch_size=1.
--clients clients then ask both in turn, in --rounds rounds, each client again
as soon as it is answered, for one image each, by TensorFlow Serving's protocol
and by the Open Inference Protocol. At last they ask the batching server
--requests times. A tenth of the requests is bad: no JSON, no base 64, no image,
an image that is cut off, no image at all, another model. The server stops at
SIGTERM while they still ask.

Each answer is compared with what `export.predict` says of the image, or with
the status code that a bad request must have; all else is a failure, and the
exit code is then 1. Prints a table of requests per second, the median and the
99th percentile of milliseconds, failures, images per batch, and the memory of
the server before and after.

Clients and server share the processor. Time is worth something only on a
machine that does nothing else.
"""

import base64
import http.client
import io
import itertools
import json
import pathlib
import re
import statistics
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import numpy as np
import PIL.Image
from absl import flags

from benchmarks.reports import format_table
from benchmarks.server_process import read_metric
from benchmarks.server_process import start_server
from export.command_line import InputError
from export.exported_model import open_model
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_MODEL = flags.DEFINE_string(
    "model", None, "SavedModel folder, .tflite or .onnx file. Required."
)
_CLIENTS = flags.DEFINE_integer(
    "clients", 32, "Number of clients at once.", lower_bound=1
)
_REQUESTS = flags.DEFINE_integer(
    "requests", 10_000, "Number of requests of the last row.", lower_bound=100
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 3, "Rounds of comparison, of 1,000 requests each.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the images.")

_REQUESTS_PER_ROUND = 1_000
_NUM_IMAGES = 64
# Of ten requests, the last one is bad.
_BAD_EVERY = 10
# In a probability. Batches of other sizes add up in another order.
_TOLERANCE = 1e-4


class Call(NamedTuple):
    """A request, and what must be answered.

    Attributes:
        path: of the URL.
        body: to be posted.
        status: code that must be answered.
        probabilities: `(classes,)`, that must be answered, or `None`.
    """

    path: str
    body: bytes
    status: int
    probabilities: np.ndarray | None = None


class Load(NamedTuple):
    """What came of asking a server many times.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: seconds that each request took.
        failures: one line for each request that was not answered as it must.
    """

    seconds: float
    latencies: list[float]
    failures: list[str]


def make_calls(model: pathlib.Path, seed: int) -> list[Call]:
    """Makes requests, of which every tenth is bad.

    Args:
        model: what the server serves.
        seed: of the images.
    """
    opened = open_model(model)
    files = [
        _make_file(np.random.default_rng((seed, number)), number)
        for number in range(_NUM_IMAGES)
    ]
    rows, _ = opened.runs["image_bytes"](files)
    good = (
        _make_call(number, _encode(file), 200, row)
        for number, (file, row) in enumerate(
            itertools.cycle(zip(files, rows, strict=True))
        )
    )
    bad = itertools.cycle(
        [
            Call("/v1/models/default:predict", b"{", 400),
            Call("/v1/models/default:predict", b'{"instances": []}', 400),
            Call("/v1/models/other:predict", b"{}", 404),
            *(
                _make_call(number, text, 400)
                for number, text in enumerate(
                    [
                        "no base 64",
                        _encode(b"no image"),
                        _encode(files[0][: len(files[0]) // 2]),
                        _encode(files[1][: len(files[1]) // 2]),
                    ]
                )
            ),
        ]
    )
    # All images by both protocols, with all that is bad.
    return [
        next(bad) if number % _BAD_EVERY == _BAD_EVERY - 1 else next(good)
        for number in range(_BAD_EVERY * 2 * _NUM_IMAGES)
    ]


def _make_file(random, number):
    height, width = random.integers(8, 200, 2)
    pixels = random.integers(0, 256, (height, width, 3), "uint8")
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, ("PNG", "JPEG")[number % 2])
    return file.getvalue()


def _encode(contents):
    return base64.b64encode(contents).decode()


def _make_call(number, text, status, row=None):
    """Returns a request of one image, by one protocol and then the other."""
    if number % 2:
        path = "/v1/models/default:predict"
        body = {"instances": [{"b64": text}]}
    else:
        path = "/v2/models/default/infer"
        tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [1]}
        body = {"inputs": [tensor | {"data": [text]}]}
    return Call(path, json.dumps(body).encode(), status, row)


def ask(
    address: str, calls: list[Call], num_requests: int, num_clients: int
) -> Load:
    """Sends requests, each client as soon as it is answered.

    Args:
        address: `host:port` of the server.
        calls: what to ask, again and again.
        num_requests: how often.
        num_clients: how many ask at once.
    """
    wanted = iter(itertools.islice(itertools.cycle(calls), num_requests))
    lock = threading.Lock()
    latencies, failures = [], []

    def run_client():
        connection = http.client.HTTPConnection(address, timeout=60)
        while True:
            with lock:
                call = next(wanted, None)
            if call is None:
                connection.close()
                return
            begin = time.perf_counter()
            try:
                wrong = _ask_once(connection, call)
            except (OSError, http.client.HTTPException, ValueError) as error:
                wrong = f"{type(error).__name__}: {error}"
                connection.close()
            latencies.append(time.perf_counter() - begin)
            if wrong:
                failures.append(f"{call.path}: {wrong}")

    clients = [threading.Thread(target=run_client) for _ in range(num_clients)]
    begin = time.perf_counter()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return Load(time.perf_counter() - begin, latencies, failures)


def _ask_once(connection, call):
    """Returns what is wrong with the answer, or `""`."""
    connection.request("POST", call.path, call.body)
    response = connection.getresponse()
    text = response.read()
    if response.status != call.status:
        return f"{response.status}, not {call.status}: {text[:200]}"
    answer = json.loads(text)
    if call.probabilities is None:
        return "" if set(answer) == {"error"} else f"no error: {text[:200]}"
    if "outputs" in answer:
        row = answer["outputs"][0]["data"]
    else:
        (row,) = answer["predictions"]
    difference = np.abs(np.subtract(row, call.probabilities)).max()
    return "" if difference < _TOLERANCE else f"off by {difference:.1e}"


def stop_under_load(
    address: str, process: subprocess.Popen, calls: list[Call], clients: int
) -> list[str]:
    """Sends SIGTERM while clients ask.

    Returns:
        What is wrong: an answer that is, or another exit code than 0. After
        the signal, connections may be refused, or closed between requests,
        even as the next request is sent.
    """
    timer = threading.Timer(1.0, process.terminate)
    timer.start()
    load = ask(address, calls, 5_000, clients)
    timer.join()
    failures = [
        failure
        for failure in load.failures
        if not re.search(
            "Connection(Refused|Reset)|RemoteDisconnected", failure
        )
    ]
    code = process.wait(timeout=60)
    if code:
        failures.append(f"exit code {code}")
    return failures


class _Row:
    """Adds up what came of loads on a server."""

    def __init__(self, name, address, num_clients):
        self._name = name
        self._address = address
        self._num_clients = num_clients
        self.rates, self.failures = [], []
        self._latencies = []
        # Their number, and that of the images in them.
        self._batches = np.zeros(2)
        self._memory = [self._read("process_resident_memory_bytes")]

    def ask(self, calls, num_requests):
        name = "lambda_keras_batch_size"
        before = self._read(f"{name}_count"), self._read(f"{name}_sum")
        load = ask(self._address, calls, num_requests, self._num_clients)
        after = self._read(f"{name}_count"), self._read(f"{name}_sum")
        self.rates.append(num_requests / load.seconds)
        self._latencies += load.latencies
        self.failures += load.failures
        self._batches += np.subtract(after, before)
        self._memory.append(self._read("process_resident_memory_bytes"))

    def _read(self, name):
        return read_metric(self._address, name)

    def format(self):
        num_batches, num_images = self._batches
        p50, p99 = np.percentile(self._latencies, [50, 99]) * 1e3
        return [
            *(self._name, self._num_clients, len(self._latencies)),
            f"{statistics.median(self.rates):.0f}",
            *(f"{p50:.1f}", f"{p99:.1f}", f"{num_images / num_batches:.1f}"),
            len(self.failures),
            f"{self._memory[0] / 2**20:.0f}",
            f"{self._memory[-1] / 2**20:.0f}",
        ]


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    if not _MODEL.value:
        raise UserError("--model is missing: what to serve.")
    model = pathlib.Path(_MODEL.value)
    try:
        calls = make_calls(model, _SEED.value)
    except InputError as error:
        raise UserError(str(error)) from error
    clients = _CLIENTS.value
    rows = []
    with (
        start_server(model) as (address, process),
        start_server(model, "--max_batch_size=1") as (unbatched_address, _),
    ):
        for count in dict.fromkeys((1, clients)):
            batched = _Row("batched", address, count)
            unbatched = _Row("one by one", unbatched_address, count)
            for _ in range(_ROUNDS.value):
                for row in (batched, unbatched):
                    row.ask(calls, _REQUESTS_PER_ROUND)
            rows += [batched, unbatched]
        soak = _Row("batched", address, clients)
        soak.ask(calls, _REQUESTS.value)
        rows.append(soak)
        header = ["server", "clients", "requests", "per second", "p50 ms"]
        header += [
            "p99 ms",
            "images a batch",
            "failures",
            "MiB before",
            "after",
        ]
        print(format_table(header, [row.format() for row in rows]))
        stopped = stop_under_load(address, process, calls, clients)
    ratio = statistics.median(batched.rates) / statistics.median(
        unbatched.rates
    )
    print(f"\nBatched with {clients} clients: {ratio:.2f} times the requests.")
    failures = [failure for row in rows for failure in row.failures] + stopped
    print("\n".join(failures[:10]))
    if failures:
        sys.exit(1)


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
