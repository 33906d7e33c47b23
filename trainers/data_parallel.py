"""Training on all devices of one or several processes on the JAX backend."""

import contextlib
import os
from collections.abc import Iterator

import keras

from trainers.program import UserError

_PREFIX = "KERAS_DISTRIBUTION_"
_VARIABLES = tuple(
    _PREFIX + name for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)


def distribute() -> keras.distribution.DataParallel:
    """Makes the models that follow train on all devices.

    Keras then shares each batch of a `tf.data.Dataset` between the devices,
    and between the processes if the environment names several: set
    `KERAS_DISTRIBUTION_JOB_ADDRESSES`, the `host:port` of the first process,
    `KERAS_DISTRIBUTION_NUM_PROCESSES`, and `KERAS_DISTRIBUTION_PROCESS_ID`,
    from 0. Each waits for the others. Batch normalization and clipping see the
    global batch.

    Call it once, before JAX computes anything and before a model is made, but
    after `keras.utils.set_random_seed`, which all processes call with the same
    seed. Batches must have one size that the number of devices divides.

    Returns:
        The distribution; `distribution.device_mesh.devices.size` is the number
        of devices in all processes together.

    Raises:
        UserError: If the backend is not JAX, or the environment names several
            processes in part or wrongly.
    """
    if keras.backend.backend() != "jax":
        raise UserError(
            "--strategy=data_parallel needs KERAS_BACKEND=jax in the "
            "environment; several devices on TensorFlow are "
            "--strategy=mirrored. Received: "
            f"KERAS_BACKEND={keras.backend.backend()}"
        )
    _connect_processes()
    distribution = keras.distribution.DataParallel(
        devices=keras.distribution.list_devices()
    )
    keras.distribution.set_distribution(distribution)
    return distribution


@contextlib.contextmanager
def pausing() -> Iterator[None]:
    """Lets one process make and load models without the others in the block.

    Saving makes variables, too.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def _connect_processes():
    values = [os.environ.get(name) for name in _VARIABLES]
    if not any(values):
        return
    received = " ".join(
        f"{name}={value}"
        for name, value in zip(_VARIABLES, values, strict=True)
    )
    if not all(values):
        raise UserError(
            "Several processes need all three variables in the environment. "
            f"Received: {received}"
        )
    _, num_processes, process_id = values
    if not (
        num_processes.isdecimal()
        and process_id.isdecimal()
        and int(process_id) < int(num_processes)
    ):
        raise UserError(
            f"{_VARIABLES[1]} must be a number, and {_VARIABLES[2]} one that "
            f"is less. Received: {received}"
        )
    try:
        keras.distribution.initialize()
    except ValueError as error:
        raise UserError(
            f"The processes cannot be connected: {error} Received: {received}"
        ) from error
