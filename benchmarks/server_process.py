"""The server in a process of its own."""

import contextlib
import http.client
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def start_server(
    model: pathlib.Path, *arguments: str, stderr: int | None = None
) -> Iterator[tuple[str, subprocess.Popen]]:
    """Starts the server at a free port, and ends it after the block.

    Args:
        model: what to serve.
        *arguments: more flags.
        stderr: as of `subprocess.Popen`.

    Yields:
        Its address, `host:port`, and the process.

    Raises:
        RuntimeError: If it does not start.
    """
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "export.serve"),
            *(f"--model={model}", "--port=0", *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    with process:
        try:
            found = re.search("http://(.*?)/", process.stdout.readline())
            if not found:
                raise RuntimeError("The server did not start.")
            yield found[1], process
        finally:
            process.terminate()


def read_metric(address: str, name: str) -> float:
    """Returns a number from a server's /metrics."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])
