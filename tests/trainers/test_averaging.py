"""The average of a network's weights, beside the network."""

import csv
import zipfile

import keras
import numpy as np
import pytest

from tests.support.distributed_training import build_network
from tests.support.distributed_training import make_batches
from trainers.averaging import AveragedModel


def build_and_compile(momentum, network=None, **arguments):
    keras.utils.set_random_seed(0)
    model = AveragedModel(
        network or build_network(normalized=True), momentum, **arguments
    )
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.TopKCategoricalAccuracy(2, name="top_2")],
        weighted_metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    return model


class AverageByHand(keras.callbacks.Callback):
    """Averages the weights of `network`, one step after the other."""

    def __init__(self, network, momentum):
        super().__init__()
        self.network = network
        self.momentum = momentum
        self.steps = 0
        self.average = network.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        m = min(self.momentum, (1 + self.steps) / (10 + self.steps))
        self.average = [
            m * mean + (1 - m) * weight
            for mean, weight in zip(
                self.average, self.network.get_weights(), strict=True
            )
        ]


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("parts", [1, 3])
def test_average_is_warmed_up_and_has_the_statistics(precision, parts):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        # Reached after 6 of 10 steps.
        model = build_and_compile(0.45, gradient_accumulation_steps=parts)
    finally:
        keras.config.set_dtype_policy(policy)
    by_hand = AverageByHand(model.network, 0.45)
    model.fit(
        make_batches(37, seed=0),
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[by_hand],
    )
    assert by_hand.steps == 10
    weights = model.average.weights
    assert {"moving_mean", "moving_variance"} <= {w.name for w in weights}
    for weight, mean in zip(weights, by_hand.average, strict=True):
        assert weight.dtype == "float32"
        np.testing.assert_allclose(weight, mean, rtol=1e-5, atol=1e-6)


def test_validation_measures_both(tmp_path):
    model = build_and_compile(0.9)
    validation = make_batches(33, seed=1)
    metrics_file = tmp_path / "metrics.csv"
    model.fit(
        make_batches(37, seed=0),
        validation_data=validation,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.CSVLogger(metrics_file)],
    )
    with open(metrics_file, newline="") as file:
        (row,) = csv.DictReader(file)
    names = {"loss", "accuracy", "top_2"}
    assert set(row) == {
        "epoch",
        *names,
        *(f"val_{name}" for name in names),
        *(f"val_average_{name}" for name in names),
    }
    for network, prefix in [
        (model.network, "val_"),
        (model.average, "val_average_"),
    ]:
        reference = keras.Model(network.inputs, network.outputs)
        reference.compile(
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.TopKCategoricalAccuracy(2, name="top_2")],
            weighted_metrics=[
                keras.metrics.CategoricalAccuracy(name="accuracy")
            ],
        )
        expected = reference.evaluate(validation, return_dict=True, verbose=0)
        # Both carry the penalty of the network's weights.
        expected["loss"] += float(
            sum(model.network.losses) - sum(reference.losses)
        )
        for name, value in expected.items():
            assert float(row[prefix + name]) == pytest.approx(value, abs=1e-5)


def test_both_are_saved_as_plain_models(tmp_path):
    network = build_network(normalized=True)
    network.layers[2].trainable = False
    model = build_and_compile(0.9, network)
    model.fit(make_batches(37, seed=0), shuffle=False, verbose=0)
    images = np.random.default_rng(2).normal(size=(3, 7, 5, 3))
    logits = []
    for name in ("network", "average"):
        path = tmp_path / f"{name}.keras"
        plain = getattr(model, name)
        plain.save(path)
        with zipfile.ZipFile(path) as archive:
            assert b"trainers" not in archive.read("config.json")
        loaded = keras.saving.load_model(path)
        logits.append(loaded.predict(images, verbose=0))
        np.testing.assert_array_equal(
            logits[-1], plain.predict(images, verbose=0)
        )
        # For whoever fine-tunes it: what was frozen, and nothing else.
        assert len(loaded.trainable_weights) == 4
    assert np.abs(logits[0] - logits[1]).max() > 1e-2


def test_network_with_what_a_clone_separates_is_refused():
    class Shared(keras.layers.Layer):
        kernel = None

        def build(self, _):
            if Shared.kernel is None:
                Shared.kernel = keras.layers.Dense(3)
            self.dense = Shared.kernel

        def call(self, inputs):
            return self.dense(inputs)

        def get_config(self):
            # What a clone builds is its own.
            Shared.kernel = None
            return super().get_config()

    inputs = keras.Input((3,))
    network = keras.Model(inputs, Shared()(Shared()(inputs)))
    assert len(network.weights) == 2
    with pytest.raises(ValueError, match="in the copy 4"):
        AveragedModel(network)


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ValueError, match=f"momentum={momentum}"):
        AveragedModel(build_network(normalized=False), momentum)


def test_metric_that_cannot_be_copied_is_refused():
    model = AveragedModel(build_network(normalized=False))
    with pytest.raises(ValueError, match="Received: accuracy"):
        model.compile(loss="mse", metrics=["accuracy"])
