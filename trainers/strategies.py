"""Where training runs: one device, several GPUs or a TPU."""

import socket
import urllib.parse

import tensorflow as tf

from trainers.program import UserError

_PROBE_SECONDS = 5


def get_strategy(name: str = "auto", tpu: str | None = None):
    """Makes a distribution strategy.

    Args:
        name: `"one_device"`, `"mirrored"`, `"tpu"`, or `"auto"` for a TPU if
            `tpu` is given, all GPUs if there are several, or one device.
        tpu: name of a TPU, `"local"`, or an address such as
            `"grpc://10.0.0.2:8470"`.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        UserError: If there is no such TPU or it does not answer.
    """
    if name == "auto":
        several_gpus = len(tf.config.list_physical_devices("GPU")) > 1
        name = "tpu" if tpu else "mirrored" if several_gpus else "one_device"
    if name == "tpu":
        return _connect_to_tpu(tpu)
    if tpu:
        raise UserError(
            "--tpu needs --strategy=tpu or auto. "
            f"Received: --strategy={name} --tpu={tpu}"
        )
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


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
