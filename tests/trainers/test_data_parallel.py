"""Several JAX devices train as one does on the same global batches."""

import importlib.util
import os
import socket
import subprocess
import sys
from unittest import mock

import keras
import numpy as np
import pytest

from trainers import data_parallel
from trainers.program import UserError

needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed"
)


def train(results_files, devices=1):
    """Trains in as many processes as there are files to write."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    processes = []
    for index, results_file in enumerate(results_files):
        environment = {**os.environ, "KERAS_BACKEND": "jax"}
        if len(results_files) > 1:
            environment |= {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
                "KERAS_DISTRIBUTION_NUM_PROCESSES": str(len(results_files)),
                "KERAS_DISTRIBUTION_PROCESS_ID": str(index),
            }
        command = [sys.executable, "-m", "tests.support.jax_training"]
        processes.append(
            subprocess.Popen(
                [*command, str(devices), results_file], env=environment
            )
        )
    try:
        assert not any(process.wait(timeout=300) for process in processes)
    finally:
        for process in processes:
            process.kill()
    return [dict(np.load(file)) for file in results_files]


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory):
    (results,) = train([tmp_path_factory.mktemp("jax") / "0.npz"], devices=2)
    return results


@pytest.fixture(scope="module")
def alone(two_devices):
    assert two_devices["devices_alone"] == 1
    return {
        key.removeprefix("alone/"): value
        for key, value in two_devices.items()
        if key.startswith("alone/")
    }


def assert_equal_on_two(results, alone):
    assert results["devices"] == 2
    assert alone.keys() >= {"loss", "val_loss", "val_accuracy", "weights"}
    for key, value in alone.items():
        np.testing.assert_allclose(results[key], value, atol=1e-5, err_msg=key)


@needs_jax
@pytest.mark.slow
def test_two_jax_devices_train_as_one(two_devices, alone):
    assert_equal_on_two(two_devices, alone)


@needs_jax
@pytest.mark.slow
def test_two_jax_processes_train_as_one_device(alone, tmp_path):
    for results in train([tmp_path / "0.npz", tmp_path / "1.npz"]):
        assert_equal_on_two(results, alone)


def test_other_backend_is_refused():
    with pytest.raises(UserError, match="KERAS_BACKEND=tensorflow"):
        data_parallel.distribute()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("a:1", "2", None), "all three"),
        (("a:1", "two", "0"), "must be a number"),
        (("a:1", "2", "2"), "one that is less"),
        (("a:1,b:1", "3", "0"), "cannot be connected"),
    ],
    ids=["missing", "word", "too_large", "addresses"],
)
def test_processes_named_wrongly_are_one_line(monkeypatch, values, message):
    names = ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
    for name, value in zip(names, values, strict=True):
        if value is not None:
            monkeypatch.setenv(f"KERAS_DISTRIBUTION_{name}", value)
    # Keras's complaint is played: a process has one backend.
    with (
        mock.patch.object(keras.backend, "backend", return_value="jax"),
        mock.patch.object(
            keras.distribution,
            "initialize",
            side_effect=ValueError("2 jobs, but num_processes is 3"),
        ),
        pytest.raises(UserError, match=message) as error,
    ):
        data_parallel.distribute()
    assert "\n" not in str(error.value)
