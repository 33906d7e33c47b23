"""Trains small networks on the devices of a strategy and writes what came out.

    python -m tests.support.distributed_training RESULTS.npz CASE...

As one of several processes that `TF_CONFIG` connects.
"""

import keras
import numpy as np
import tensorflow as tf
from absl import app

from trainers.averaging import AveragedModel
from trainers.data.image_dataset import Split
from trainers.data.input_pipeline import PseudoLabelled
from trainers.data.input_pipeline import make_training_batches
from trainers.optimization import add_weight_decay
from trainers.progress import StepClock
from trainers.strategies import get_strategy

BATCH_SIZE = 8
# The last batch of training gives two replicas 3 and 2 examples, that of
# validation gives the second none.
TRAINING_SIZE = 37
VALIDATION_SIZE = 33
CASES = {
    # Name: (batch normalization, precision, steps per execution, arguments of
    # the model). Of one step, Python fetches the batch.
    "normalized": (True, "float32", 2, {}),
    "accumulated": (False, "float32", 1, {"gradient_accumulation_steps": 2}),
    "half": (False, "mixed_float16", 2, {"gradient_accumulation_steps": 2}),
    "pseudo_labelled": (True, "float32", 2, {}),
}


def make_batches(size, seed):
    random = np.random.default_rng(seed)
    images = random.normal(size=(size, 7, 5, 3)).astype("float32")
    labels = np.eye(5, dtype="float32")[random.integers(0, 5, size)]
    weights = random.uniform(0, 2, size).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((images, labels, weights))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return batches.batch(BATCH_SIZE).with_options(options)


def make_mixed_batches():
    """Returns as many, each of 2 labelled and 6 pseudo-labelled images."""
    random = np.random.default_rng(0)

    def make_split(size):
        images = random.normal(size=(size, 7, 5, 3)).astype("float32")
        labels = random.dirichlet(np.ones(5), size).astype("float32")
        examples = tf.data.Dataset.from_tensor_slices((images, labels))
        return Split(examples, size, size, load=tf.identity)

    def augment(image, image_size, key):
        del image_size, key
        return image

    batches = make_training_batches(
        make_split(7),
        num_classes=5,
        image_size=7,
        batch_size=2,
        augment=augment,
        seed=0,
        epochs=1,
        steps_per_epoch=5,
        pseudo_labelled=PseudoLabelled(make_split(11), 6, augment, 0.5),
    )
    return batches.apply(tf.data.experimental.assert_cardinality(5))


def build_network(normalized):
    inputs = keras.Input((7, 5, 3))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(11)(x)
    if normalized:
        x = keras.layers.BatchNormalization(momentum=0.5, synchronized=True)(x)
    x = keras.layers.ReLU()(x)
    outputs = keras.layers.Dense(
        5, kernel_regularizer=keras.regularizers.L2(0.1), dtype="float32"
    )(x)
    return keras.Model(inputs, outputs)


def train(
    strategy, batches, normalized, precision, steps_per_execution, arguments
):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(precision)
    with strategy.scope():
        model = AveragedModel(build_network(normalized), **arguments)
        model.compile(
            # Every gradient is longer than that.
            keras.optimizers.SGD(0.5, momentum=0.9, global_clipnorm=0.1),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            weighted_metrics=[
                keras.metrics.CategoricalAccuracy(name="accuracy")
            ],
            # Of 5 batches.
            steps_per_execution=steps_per_execution,
        )
    validation = make_batches(VALIDATION_SIZE, seed=1)
    clock = StepClock(BATCH_SIZE)
    history = model.fit(
        batches,
        validation_data=validation,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[clock],
    ).history
    knows_wait = clock.waiting_share is not None
    assert knows_wait == (steps_per_execution == 1)
    steps = keras.ops.convert_to_numpy(model.optimizer.iterations)
    return {
        **history,
        "weights": np.concatenate(
            [w.ravel() for w in model.network.get_weights()]
        ),
        "average": np.concatenate(
            [w.ravel() for w in model.average.get_weights()]
        ),
        "logits": model.predict(validation, verbose=0),
        "replica_steps": steps * strategy.num_replicas_in_sync,
    }


def train_cases(strategy, cases):
    results = {}
    for case in cases:
        batches = make_batches(TRAINING_SIZE, seed=0)
        if case == "pseudo_labelled":
            batches = make_mixed_batches()
        for key, value in train(strategy, batches, *CASES[case]).items():
            results[f"{case}/{key}"] = value
    return results


def train_step(strategy):
    """Takes a step as Keras does by itself, in a plain model."""
    random = np.random.default_rng(0)
    images = random.normal(size=(8, 5)).astype("float32")
    labels = np.eye(3, dtype="float32")[np.arange(8) % 3]
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((5,)),
                keras.layers.Dense(4),
                keras.layers.BatchNormalization(synchronized=True),
                keras.layers.Dense(3),
            ]
        )
        add_weight_decay(model, 0.5)
        model.compile(
            keras.optimizers.SGD(1.0),
            keras.losses.CategoricalCrossentropy(from_logits=True),
        )
    model.fit(images, labels, batch_size=8, verbose=0)
    # By their numbers, because Keras numbers the names of a process.
    return {str(n): value for n, value in enumerate(model.get_weights())}


def main(argv):
    _, results_file, *cases = argv
    strategy = get_strategy("multi_worker")
    np.savez(results_file, **train_cases(strategy, cases))


if __name__ == "__main__":
    # As the programs do: absl shows what TensorFlow tells.
    app.run(main)
