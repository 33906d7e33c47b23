"""Trains a small network on all JAX devices and writes what came out.

    KERAS_BACKEND=jax python -m tests.support.jax_training DEVICES RESULTS.npz

on that many parts of the CPU, in one of several processes if the environment
says so. If there are several parts, a second training is on one of them alone.
"""

import sys

if __name__ == "__main__":
    import jax

    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))

import keras
import numpy as np
import tensorflow as tf

from trainers import data_parallel
from trainers import optimization


def train():
    random = np.random.default_rng(0)
    images = random.normal(size=(35, 7, 5, 3)).astype("float32")
    labels = np.eye(5, dtype="float32")[random.integers(0, 5, 35)]
    weights = random.uniform(0, 2, 35).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((images, labels, weights))
    # 4 batches, and what does not fill a fifth.
    batches = batches.batch(8, drop_remainder=True)
    inputs = keras.Input((7, 5, 3))
    x = keras.layers.Conv2D(11, 3)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.5)(x)
    x = keras.layers.Flatten()(keras.layers.ReLU()(x))
    model = keras.Model(inputs, keras.layers.Dense(5)(x))
    optimization.add_weight_decay(model, 0.1)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.1),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        steps_per_execution=2,
    )
    history = model.fit(
        batches.repeat(),
        steps_per_epoch=4,
        validation_data=batches,
        validation_steps=4,
        epochs=2,
        shuffle=False,
        verbose=0,
    ).history
    weights = np.concatenate([w.ravel() for w in model.get_weights()])
    devices = model.weights[0].value.sharding.device_set
    return {**history, "weights": weights}, len(devices)


def main(devices, results_file):
    keras.utils.set_random_seed(0)
    data_parallel.distribute()
    results, num_devices = train()
    results["devices"] = num_devices
    if devices > 1:
        keras.utils.set_random_seed(0)
        with data_parallel.pausing():
            alone, results["devices_alone"] = train()
        results |= {f"alone/{key}": value for key, value in alone.items()}
    np.savez(results_file, **results)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
