"""The file of a state: all that training needs to go on, and a checksum.

It is a NumPy archive, which `numpy.load` opens, with the SHA-256 digest of
all its bytes after them.
"""

import dataclasses
import hashlib
import io
import json
import os
import re

import numpy as np

from trainers.files import make_path
from trainers.files import replacing

_DIGEST_SIZE = hashlib.sha256().digest_size


class DamagedStateError(Exception):
    """The file is not what was written."""


@dataclasses.dataclass(frozen=True)
class TrainState:
    """What training has come to.

    Attributes:
        epoch: number of whole epochs that are done.
        step: number of steps that are done of the epoch after them.
        best: score of the best epoch.
        rows: for each whole epoch, what metrics.csv says of it.
        event_sizes: bytes of each file of events, by its name in the folder.
        names: of the variables.
        values: of the variables of model and optimizer.
        metric_values: of the variables of metrics, for all replicas: what has
            been added up since the epoch began. Empty if `step` is 0.
    """

    epoch: int
    step: int
    best: tuple[float, float]
    rows: list[dict]
    event_sizes: dict[str, int]
    names: list[str]
    values: list[np.ndarray]
    metric_values: list[np.ndarray]


def name_variable(path: str) -> str:
    """Returns the path of a variable without the numbers that Keras adds.

    They say how many layers a process made before, which is no part of a
    network.
    """
    return re.sub(r"_\d+(?=[_/]|$)", "", path)


def write_state(path: os.PathLike, state: TrainState) -> None:
    """Writes a state so that `path` is always a whole one, old or new."""
    header = {
        field.name: getattr(state, field.name)
        for field in dataclasses.fields(state)
        if field.name not in ("values", "metric_values")
    }
    arrays = {f"value_{n}": value for n, value in enumerate(state.values)}
    for n, value in enumerate(state.metric_values):
        arrays[f"metric_{n}"] = value
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, header=json.dumps(header), **arrays)
        with open(temporary, "r+b") as file:
            file.write(hashlib.file_digest(file, "sha256").digest())


def read_state(path: os.PathLike) -> TrainState:
    """Reads what `write_state` wrote.

    Raises:
        DamagedStateError: If it is not that to the last bit.
        OSError: If there is no such file, or it cannot be read.
    """
    contents = memoryview(make_path(path).read_bytes())
    archive, digest = contents[:-_DIGEST_SIZE], contents[-_DIGEST_SIZE:]
    if hashlib.sha256(archive).digest() != digest:
        raise DamagedStateError
    with np.load(io.BytesIO(archive)) as arrays:
        header = json.loads(str(arrays["header"]))
        return TrainState(
            **{**header, "best": tuple(header["best"])},
            values=_read_numbered(arrays, "value"),
            metric_values=_read_numbered(arrays, "metric"),
        )


def _read_numbered(arrays, prefix):
    count = sum(name.startswith(f"{prefix}_") for name in arrays.files)
    return [arrays[f"{prefix}_{n}"] for n in range(count)]
