"""Several devices train as one does on the same global batches."""

import inspect
import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config

from tests.support import distributed_training
from trainers.distributed_model import DistributedModel
from trainers.distributed_model import check_divisibility
from trainers.program import UserError

# Loss and accuracy of training, validation and the average, and what follows.
_RESULTS_PER_CASE = 6 + 4


def start_training(results_file, cases, **environment):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.support.distributed_training",
            results_file,
            *cases,
        ],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish_training(*processes):
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(p.returncode for p in processes), "\n".join(errors)


def find_free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def one_device():
    policy = keras.config.dtype_policy()
    yield distributed_training.train_cases(
        tf.distribute.get_strategy(), distributed_training.CASES
    )
    keras.config.set_dtype_policy(policy)


def assert_equal_but_for_replicas(results, one_device, cases, replicas):
    assert len(results) == len(cases) * _RESULTS_PER_CASE
    for key in results:
        value = one_device[key]
        if key.endswith("replica_steps"):
            value = value * replicas
        # Half precision adds in another order.
        tolerance = 2e-3 if key.startswith("half") else 1e-5
        np.testing.assert_allclose(
            results[key], value, rtol=tolerance, atol=tolerance, err_msg=key
        )


@pytest.mark.slow
def test_mirrored_training_equals_that_of_one_device(one_device, mirrored):
    assert "Reduce to" not in mirrored.errors
    assert_equal_but_for_replicas(
        mirrored.results["cases"], one_device, distributed_training.CASES, 2
    )


# With those that compare with the same training on one device.
@pytest.mark.xdist_group("mirrored")
@pytest.mark.slow
def test_two_processes_train_as_one_device(one_device, tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in find_free_ports(2)]
    files = [tmp_path / "0.npz", tmp_path / "1.npz"]
    cases = ["accumulated", "pseudo_labelled"]
    finish_training(
        *(
            start_training(
                results_file,
                cases,
                TF_CONFIG=json.dumps(
                    {
                        "cluster": {"worker": addresses},
                        "task": {"type": "worker", "index": index},
                    }
                ),
            )
            for index, results_file in enumerate(files)
        )
    )
    for results_file in files:
        assert_equal_but_for_replicas(
            np.load(results_file), one_device, cases, 2
        )


def fit(model_class, optimizer, normalized, **arguments):
    keras.utils.set_random_seed(0)
    network = distributed_training.build_network(normalized)
    model = model_class(network, **arguments)
    model.compile(
        optimizer(0.1, global_clipnorm=0.1),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.CategoricalAccuracy()],
    )
    batches = distributed_training.make_batches(37, seed=0)
    history = model.fit(batches, shuffle=False, verbose=0).history
    return history, network.get_weights()


def test_one_device_trains_as_keras_does():
    history, weights = fit(
        DistributedModel, keras.optimizers.AdamW, normalized=True
    )
    expected_history, expected = fit(
        lambda network: keras.Model(network.inputs, network.outputs[0]),
        keras.optimizers.AdamW,
        normalized=True,
    )
    assert history == expected_history
    for weight, value in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_accumulated_gradient_is_that_of_the_batch():
    # Of 8 examples and, at last, 5. Adam would divide rounding errors by
    # gradients that are nearly zero.
    history, weights = fit(
        DistributedModel,
        keras.optimizers.SGD,
        normalized=False,
        gradient_accumulation_steps=3,
    )
    expected_history, expected = fit(
        DistributedModel, keras.optimizers.SGD, normalized=False
    )
    assert history.keys() == expected_history.keys()
    for name, values in expected_history.items():
        np.testing.assert_allclose(history[name], values, atol=1e-5)
    for weight, value in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, value, atol=1e-5)


# What DistributedModel replaces or uses of Keras's private methods. Compare
# them in Keras's source with what is written here before the test is changed.
def test_keras_is_the_one_that_was_written_for():
    assert keras.__version__.startswith("3.15.")
    optimizer = keras.optimizers.SGD()
    signatures = {
        method.__name__: list(inspect.signature(method).parameters)
        for method in (
            keras.Model._make_function,
            keras.Model._maybe_symbolic_build,
            keras.Model._symbolic_build,
            optimizer._all_reduce_sum_gradients,
        )
    }
    assert signatures == {
        "_make_function": ["self", "step_function"],
        "_maybe_symbolic_build": ["self", "iterator", "data_batch"],
        "_symbolic_build": ["self", "iterator", "data_batch"],
        "_all_reduce_sum_gradients": ["grads_and_vars"],
    }
    callers = {
        "_make_function": keras.Model.make_test_function,
        "_maybe_symbolic_build": keras.Model.evaluate,
        "_all_reduce_sum_gradients": optimizer._backend_update_step,
    }
    for name, caller in callers.items():
        assert f"self.{name}(" in inspect.getsource(caller)


def make_small_model(**arguments):
    inputs = keras.Input((3,))
    network = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    return DistributedModel(network, **arguments)


def test_batch_with_too_few_examples_to_divide_is_refused():
    model = make_small_model(gradient_accumulation_steps=3)
    model.compile(loss="mse")
    batches = tf.data.Dataset.from_tensors((np.ones((2, 3)), np.ones((2, 2))))
    with pytest.raises(tf.errors.InvalidArgumentError, match="for each part"):
        model.fit(batches.batch(2).unbatch(), shuffle=False, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (
            {"optimizer": keras.optimizers.SGD(gradient_accumulation_steps=2)},
            "must not accumulate",
        ),
        ({"loss": keras.losses.MeanSquaredError("sum")}, "must be a mean"),
        ({"jit_compile": True}, "must be False with several replicas"),
    ],
    ids=["accumulation_by_keras", "sum", "compilation"],
)
def test_compile_refuses(monkeypatch, arguments, rule):
    monkeypatch.setattr(DistributedModel, "_num_replicas", 2)
    # Where a test before this has made operations deterministic, Keras
    # compiles nothing.
    config.disable_op_determinism()
    with pytest.raises(ValueError, match=rule):
        make_small_model().compile(**{"loss": "mse", **arguments})


def test_accumulation_of_no_parts_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        make_small_model(gradient_accumulation_steps=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 28}, "divisible by 24"),
        ({"steps_per_epoch": 34}, "1, 2, 17, 34"),
        ({"steps_per_execution": 10}, "--steps_per_execution=10"),
    ],
    ids=["batch", "epoch", "execution"],
)
def test_what_cannot_be_divided_is_one_line(changes, message):
    fitting = {
        "batch_size": 48,
        "steps_per_epoch": 35,
        "num_replicas": 8,
        "gradient_accumulation_steps": 3,
        "steps_per_execution": 5,
    }
    check_divisibility(**fitting)
    with pytest.raises(UserError, match=message) as error:
        check_divisibility(**{**fitting, **changes})
    assert "\n" not in str(error.value)
