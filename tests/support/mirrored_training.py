"""Trains on two halves of the CPU all that is compared with one device.

    python -m tests.support.mirrored_training RESULTS.npz

In one process, because each takes seconds to start. Keys of the results begin
with the name of a training.
"""

import functools

import numpy as np
import tensorflow as tf
from absl import app

from tests.support import distributed_training
from tests.support import mirrored_backbone
from trainers.strategies import find_devices

TRAININGS = {
    "step": distributed_training.train_step,
    "backbone": mirrored_backbone.train,
    "cases": functools.partial(
        distributed_training.train_cases, cases=distributed_training.CASES
    ),
}


def main(argv):
    _, results_file = argv
    # Devices can be split only before TensorFlow starts.
    cpu = tf.config.list_physical_devices("CPU")[0]
    half = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [half, half])
    devices = find_devices("mirrored")
    assert devices.count == 2
    results = {
        f"{name}/{key}": value
        for name, train in TRAININGS.items()
        for key, value in train(devices.strategy).items()
    }
    np.savez(results_file, **results)


if __name__ == "__main__":
    # As the programs do: absl shows what TensorFlow tells.
    app.run(main)
