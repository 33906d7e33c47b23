"""Where training runs; TPUs are played by mocks."""

import socket
import subprocess
import sys
import textwrap
from unittest import mock

import pytest
import tensorflow as tf

from trainers.program import UserError
from trainers.strategies import get_strategy

_TWO_WORKERS = (
    '{"cluster": {"worker": ["a:1", "b:2"]}, '
    '"task": {"type": "worker", "index": 1}}'
)


def test_auto_is_one_device_without_accelerators():
    assert get_strategy("auto") is tf.distribute.get_strategy()


def test_auto_is_mirrored_with_two_gpus():
    with (
        mock.patch.object(
            tf.config, "list_physical_devices", return_value=["gpu", "gpu"]
        ),
        mock.patch.object(tf.distribute, "MirroredStrategy") as mirrored,
    ):
        assert get_strategy("auto") is mirrored.return_value


def test_tpu_is_connected_and_initialized():
    with (
        mock.patch.object(
            tf.distribute.cluster_resolver, "TPUClusterResolver"
        ) as resolver,
        mock.patch.object(
            tf.config, "experimental_connect_to_cluster"
        ) as connect,
        mock.patch.object(
            tf.tpu.experimental, "initialize_tpu_system"
        ) as initialize,
        mock.patch.object(tf.distribute, "TPUStrategy") as strategy,
    ):
        assert get_strategy("auto", tpu="my-tpu") is strategy.return_value
    resolver.assert_called_once_with("my-tpu")
    for function in (connect, initialize, strategy):
        function.assert_called_once_with(resolver.return_value)


def test_tpu_without_a_name_is_one_line():
    with pytest.raises(UserError, match="No TPU could be reached") as error:
        get_strategy("tpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "reason",
    [
        OSError("Name or service not known"),
        tf.errors.NotFoundError(None, None, "TPUs not found\nmore\nlines"),
    ],
    ids=["unknown_name", "no_tpu"],
)
def test_unreachable_tpu_is_one_line(reason):
    with (
        mock.patch.object(
            tf.distribute.cluster_resolver,
            "TPUClusterResolver",
            side_effect=reason,
        ),
        pytest.raises(UserError, match="--tpu=my-tpu") as error,
    ):
        get_strategy("tpu", tpu="my-tpu")
    assert "\n" not in str(error.value)


def test_dead_tpu_address_does_not_hang():
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"grpc://127.0.0.1:{unheard.getsockname()[1]}"
        with pytest.raises(UserError, match="refused"):
            get_strategy("tpu", tpu=address)


def test_tpu_address_with_another_strategy_is_refused():
    with pytest.raises(UserError, match="--strategy=mirrored"):
        get_strategy("mirrored", tpu="my-tpu")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        '{"cluster": {}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}',
        '{"cluster": {"worker": ["a"]}, "task": {"type": "worker", '
        '"index": 0}}',
        '{"cluster": {"worker": ["a:b"]}, "task": {"type": "worker", '
        '"index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", '
        '"index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", '
        '"index": 0}}',
        '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
    ids=[
        "json",
        "list",
        "no_task",
        "no_index",
        "no_port",
        "word_as_port",
        "index_too_large",
        "other_task",
        "parameter_server",
    ],
)
def test_malformed_tf_config_is_one_line(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="TF_CONFIG is malformed") as error:
        get_strategy("multi_worker")
    assert "\n" not in str(error.value)


def test_several_workers_without_tf_config_are_refused(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="needs TF_CONFIG"):
        get_strategy("multi_worker")


@pytest.mark.parametrize("name", ["auto", "one_device", "mirrored"])
def test_workers_that_would_train_apart_are_refused(monkeypatch, name):
    monkeypatch.setenv("TF_CONFIG", _TWO_WORKERS)
    with pytest.raises(UserError, match="names 2 workers"):
        get_strategy(name)


def test_worker_of_a_cluster_of_one_may_train_alone(monkeypatch):
    monkeypatch.setenv(
        "TF_CONFIG",
        '{"cluster": {"chief": ["a:1"]}, '
        '"task": {"type": "chief", "index": 0}}',
    )
    assert get_strategy("auto") is tf.distribute.get_strategy()


def test_several_workers_are_connected(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", _TWO_WORKERS)
    with mock.patch.object(
        tf.distribute, "MultiWorkerMirroredStrategy"
    ) as strategy:
        assert get_strategy("multi_worker") is strategy.return_value


@pytest.mark.slow
def test_mirrored_step_equals_that_of_one_device():
    # Devices can be split only before TensorFlow starts.
    program = """
        import keras
        import numpy as np
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        half = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [half, half])

        from trainers.optimization import add_weight_decay
        from trainers.strategies import get_strategy

        images = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
        labels = np.eye(3, dtype="float32")[np.arange(8) % 3]

        def train(name):
            keras.utils.set_random_seed(0)
            strategy = get_strategy(name)
            with strategy.scope():
                model = keras.Sequential([
                    keras.Input((5,)),
                    keras.layers.Dense(4),
                    keras.layers.BatchNormalization(synchronized=True),
                    keras.layers.Dense(3),
                ])
                add_weight_decay(model, 0.5)
                model.compile(
                    keras.optimizers.SGD(1.0),
                    keras.losses.CategoricalCrossentropy(from_logits=True),
                )
            model.fit(images, labels, batch_size=8, verbose=0)
            return strategy.num_replicas_in_sync, model.get_weights()

        one, expected = train("one_device")
        two, weights = train("mirrored")
        assert (one, two) == (1, 2)
        for weight, value in zip(weights, expected, strict=True):
            np.testing.assert_allclose(weight, value, atol=1e-5)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
