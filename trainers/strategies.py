"""Where training runs: one device, several GPUs, several workers or a TPU."""

import json
import logging
import os
import socket
import urllib.parse
from typing import NamedTuple

import keras
import tensorflow as tf

from trainers import data_parallel
from trainers.program import UserError

_PROBE_SECONDS = 5
_TF_CONFIG_HELP = (
    "TF_CONFIG in the environment of each worker, with its own index: "
    '\'{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}\'.'
)


class Devices(NamedTuple):
    """Where a process trains, alone or with others.

    Attributes:
        strategy: a `tf.distribute.Strategy`; TensorFlow's default one on
            another backend of Keras.
        count: number of devices that share a batch, over all processes.
        processes: number of processes that train together.
        is_chief: whether this process writes the files.
    """

    strategy: tf.distribute.Strategy
    count: int
    processes: int
    is_chief: bool


def find_devices(name: str = "auto", tpu: str | None = None) -> Devices:
    """Finds the devices to train on, and connects to other processes.

    To be called before anything is computed, after
    `keras.utils.set_random_seed`.

    Args:
        name: as in `get_strategy`, or `"data_parallel"` for all devices of
            JAX.
        tpu: as in `get_strategy`.

    Raises:
        UserError: As `get_strategy` and `data_parallel.distribute` do, or if
            the backend of Keras is of no use for `name`.
    """
    if name == "data_parallel":
        distribution = data_parallel.distribute()
        import jax

        return Devices(
            tf.distribute.get_strategy(),
            count=distribution.device_mesh.devices.size,
            processes=jax.process_count(),
            is_chief=jax.process_index() == 0,
        )
    if keras.backend.backend() != "tensorflow" and name not in (
        "auto",
        "one_device",
    ):
        raise UserError(
            f"--strategy={name} needs TensorFlow; several devices of JAX are "
            "--strategy=data_parallel. Received: "
            f"KERAS_BACKEND={keras.backend.backend()}"
        )
    strategy = get_strategy(name, tpu)
    workers = max(1, len(_read_workers())) if name == "multi_worker" else 1
    return Devices(
        strategy,
        count=strategy.num_replicas_in_sync,
        processes=workers,
        is_chief=strategy.extended.should_checkpoint,
    )


def get_strategy(name: str = "auto", tpu: str | None = None):
    """Makes a distribution strategy.

    Several workers must each make theirs before TensorFlow computes anything,
    and each waits for the others.

    Args:
        name: `"one_device"`, `"mirrored"`, `"multi_worker"` for the GPUs of
            all workers that the environment variable `TF_CONFIG` names,
            `"tpu"`, or `"auto"` for a TPU if `tpu` is given, all GPUs if there
            are several, or one device.
        tpu: name of a TPU, `"local"`, or an address such as
            `"grpc://10.0.0.2:8470"`.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        UserError: If there is no such TPU or it does not answer, if TF_CONFIG
            is malformed, is missing with `"multi_worker"`, or names several
            workers without.
    """
    if name == "auto":
        several_gpus = len(tf.config.list_physical_devices("GPU")) > 1
        name = "tpu" if tpu else "mirrored" if several_gpus else "one_device"
    if tpu and name != "tpu":
        raise UserError(
            "--tpu needs --strategy=tpu or auto. "
            f"Received: --strategy={name} --tpu={tpu}"
        )
    workers = _read_workers()
    if name == "multi_worker":
        if not workers:
            raise UserError(f"--strategy=multi_worker needs {_TF_CONFIG_HELP}")
        _quiet_reductions()
        return tf.distribute.MultiWorkerMirroredStrategy()
    if len(workers) > 1:
        raise UserError(
            f"TF_CONFIG names {len(workers)} workers, which train together "
            "with --strategy=multi_worker only; without it, unset TF_CONFIG. "
            f"Received: --strategy={name}"
        )
    if name == "tpu":
        return _connect_to_tpu(tpu)
    if name == "mirrored":
        _quiet_reductions()
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _read_workers():
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
        if not config:
            return []
        cluster = config["cluster"]
        if not set(cluster) <= {"chief", "worker"}:
            raise ValueError("tasks other than chief and worker")
        # The chief counts as a worker.
        workers = [a for kind in sorted(cluster) for a in cluster[kind]]
        for address in workers:
            host, port = address.rsplit(":", 1)
            if not host or not 0 < int(port) < 2**16:
                raise ValueError(f"no host and port in {address}")
        task = config["task"]
        index = task["index"]
        if not 0 <= index < len(cluster[task["type"]]):
            raise ValueError(f"no task of index {index}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"TF_CONFIG is malformed ({error!r}); set it to "
            f"{_TF_CONFIG_HELP} Received: TF_CONFIG={text}"
        ) from error
    return workers


def _quiet_reductions():
    # TensorFlow tells of each of hundreds of reductions.
    tf.get_logger().setLevel(logging.WARNING)


def _connect_to_tpu(tpu):
    try:
        _probe(tpu)
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu or "")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    # What TensorFlow raises for an absent TPU: no name, a name that does not
    # resolve, a machine without one.
    except (ValueError, OSError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            "No TPU could be reached; give its name or address, or leave out "
            f"--tpu to train without. Received: --tpu={tpu or ''} ({reason})"
        ) from error


def _probe(tpu):
    # TensorFlow waits minutes for an address that nobody answers.
    address = urllib.parse.urlsplit(tpu or "")
    if address.scheme == "grpc":
        target = (address.hostname, address.port or 8470)
        socket.create_connection(target, timeout=_PROBE_SECONDS).close()
