"""Where training runs; TPUs are played by mocks."""

import socket
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from tests.support.distributed_training import train_step
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
def test_mirrored_step_equals_that_of_one_device(mirrored):
    expected = train_step(get_strategy("one_device"))
    step = mirrored.results["step"]
    assert step.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(step[key], value, atol=1e-5, err_msg=key)
