"""Answers HTTP requests for what is in images, with an exported model.

    python -m export.serve --model=EXPORT_DIR/saved_model --port=8501

or with --model=EXPORT_DIR/model.tflite or model.onnx. It speaks the REST API
of TensorFlow Serving,

    echo '{"instances": [{"b64": "'$(base64 -w0 scan.png)'"}]}' |
        curl -d @- http://127.0.0.1:8501/v1/models/default:predict

and the Open Inference Protocol, below /v2/models/default; docs/deployment.md
has both. /metrics is for Prometheus.

Images are decoded one by one, so that a bad one costs the others nothing, and
what waits is computed at once, up to --max_batch_size. If there is too much of
something, the answer is 413, or 503 while too many images wait. Once the model
is replaced on disk, the new one answers, if it is whole. SIGTERM and Ctrl-C
end the program when the requests in progress are answered.

Only programs of this machine reach it, unless --host says otherwise. It knows
no passwords and no TLS: to others, let a proxy speak that does.

The folder `export` may be copied to a machine that has nothing else of this
project. There, this program needs what `export.predict` does, and fastapi,
httptools, orjson, prometheus-client, uvicorn and uvloop.
"""

if __name__ == "__main__":
    from export.command_line import end_at_interrupt

    end_at_interrupt()

import os
import pathlib
import re
import signal
import socket
from typing import TYPE_CHECKING

from export.command_line import InputError
from export.command_line import Parser
from export.command_line import parse_count
from export.command_line import parse_seconds
from export.command_line import run_program
from export.preprocessing import MAX_PIXELS

if TYPE_CHECKING:
    import fastapi

_NAME = "[A-Za-z0-9_.-]+"
# A load balancer keeps its connections for a minute or so.
_KEEP_ALIVE_SECONDS = 75
_GRACE_SECONDS = 30


def _make_parser():
    parser = Parser("export.serve", __doc__)
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="SavedModel folder, .tflite or .onnx file of an export; required",
    )
    parser.add_argument(
        "--model_name",
        default="default",
        metavar="NAME",
        help="how requests call the model (default: default)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 for all of this machine's "
        "(default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8501,
        metavar="N",
        help="port to listen at; 0 for any that is free (default: 8501)",
    )
    for name, parse, default, what in (
        ("max_batch_size", parse_count, 32, "images that are computed at once"),
        ("max_queue", parse_count, 256, "images that are decoded or wait"),
        ("max_body_mib", parse_count, 32, "MiB of the body of a request"),
        ("max_pixels", parse_count, 2**25, "pixels of an image"),
        (
            "body_seconds",
            parse_seconds,
            60,
            "seconds in which a body must come",
        ),
        ("poll_seconds", parse_seconds, 1, "seconds between looks at the disk"),
        ("decoders", parse_count, os.cpu_count(), "threads that decode images"),
    ):
        parser.add_argument(
            f"--{name}",
            type=parse,
            default=default,
            metavar="N",
            help=f"{what} (default: {default})",
        )
    return parser


def _listen(host, port):
    """Returns a socket that is bound, but refuses clients as yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(
            "--host and --port must be an address of this machine and a free "
            f"port, but {getattr(error, 'strerror', None) or error}. "
            f"Received: {host} and {port}"
        ) from error
    return listener


def _load(options) -> "fastapi.FastAPI":
    try:
        from export.serving.application import make_application
        from export.serving.limits import Limits
        from export.serving.service import Service
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} must be installed to serve a model: "
            "pip install 'lambda-keras[serve]'"
        ) from error
    limits = Limits(
        max_batch_size=options.max_batch_size,
        max_queue=options.max_queue,
        max_body_bytes=options.max_body_mib << 20,
        max_pixels=options.max_pixels,
        body_seconds=options.body_seconds,
    )
    service = Service(
        pathlib.Path(options.model),
        options.model_name,
        limits,
        options.decoders,
    )
    return make_application(service, options.poll_seconds)


def _serve(application, listener) -> int:
    """Serves until SIGTERM or Ctrl-C; returns the exit code."""
    import uvicorn

    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    received = []
    # uvicorn raises once more, at its end, what ended it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: received.append(number))
    uvicorn.Server(config).run(sockets=[listener])
    return 130 if signal.SIGINT in received else 0


def main(argv: list[str]) -> int:
    """Serves a model.

    Args:
        argv: the arguments, without the name of the program.

    Returns:
        The exit code.

    Raises:
        InputError: If it cannot be served.
    """
    options = _make_parser().parse_args(argv)
    if options.model is None:
        raise InputError("--model must be given. See --help.")
    if not re.fullmatch(_NAME, options.model_name):
        raise InputError(
            "--model_name must be letters, digits and ._-, to stand in a URL. "
            f"Received: {options.model_name}"
        )
    if options.max_pixels > MAX_PIXELS:
        raise InputError(
            f"--max_pixels must be at most {MAX_PIXELS}, the limit of exported "
            f"models. Received: {options.max_pixels}"
        )
    with _listen(options.host, options.port) as listener:
        application = _load(options)
        listener.listen()
        host, port, *_ = listener.getsockname()
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(
            f"{options.model} is served at "
            f"{url}/v1/models/{options.model_name}:predict and "
            f"{url}/v2/models/{options.model_name}/infer",
            flush=True,
        )
        return _serve(application, listener)


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
