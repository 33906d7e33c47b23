"""What several test files share: one small network, exported once."""

import collections
import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple
from unittest import mock

import keras
import numpy as np
import pytest

import lambda_keras

pytest.register_assert_rewrite("tests.support")

CLASS_NAMES = [f"class {letter}" for letter in "abcdefghij"]


def build_small_model():
    """Returns a digit classifier as training saves it: pixels -> logits.

    Its logits differ between classes and images as those of a trained network
    do; a new network's would all be about zero.
    """
    # One step in training mode then sets the statistics.
    normalization = keras.layers.BatchNormalization(momentum=0.0)
    network = lambda_keras.build_lambda_resnet(
        14,
        (16, 16, 1),
        10,
        width_multiplier=1 / 8,
        stem_strides=1,
        lambda_layer=lambda filters: lambda_keras.LambdaConv(
            filters, scope_size=7, key_dim=4, normalization=normalization
        ),
        normalization=normalization,
        classifier_activation=None,
    )
    inputs = keras.Input((16, 16, 1))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    model = keras.Model(inputs, network(x))
    random = np.random.default_rng(1)
    for weight in network.weights:
        *fan_in, _ = weight.shape
        if fan_in:
            scale = np.prod(fan_in) ** -0.5
            weight.assign(random.normal(0, scale, weight.shape))
        else:
            # The scales among them, of which the blocks' last start at zero.
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    images = random.uniform(0, 255, (32, 16, 16, 1))
    model(images, training=True)
    logits = model.predict(images, verbose=0)
    head = network.get_layer("predictions")
    head.bias.assign(head.bias - logits.mean(axis=0))
    scale = 2 / logits.std(axis=0).mean()
    head.kernel.assign(head.kernel * scale)
    head.bias.assign(head.bias * scale)
    return model


# Fixtures that take seconds to make; the tests of a fixture share a worker.
_DEAR_FIXTURES = (
    "detector_run",
    "export_dir",
    "launcher",
    "mirrored",
    "trained",
    "two_devices",
    "untrained_dir",
    "whole_run",
)


def pytest_configure(config):
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Workers that each take all cores slow each other down.
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ.setdefault(name, "1")


# What tf-models-official takes long to train or to export.
_DETECTORS = ("detector_export", "detector_run", "untrained_dir")


# Before pytest-xdist reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        for name in _DEAR_FIXTURES:
            if name in item.fixturenames:
                item.add_marker(pytest.mark.xdist_group(name))
                item.add_marker(pytest.mark.slow)
        if any(name in item.fixturenames for name in _DETECTORS):
            item.add_marker(pytest.mark.detection)


class Mirrored(NamedTuple):
    """What trainings on two devices gave, by their names, and said."""

    results: dict[str, dict[str, np.ndarray]]
    errors: str


@pytest.fixture(scope="session")
def mirrored(tmp_path_factory) -> Mirrored:
    """All of `tests.support.mirrored_training`."""
    path = tmp_path_factory.mktemp("mirrored") / "results.npz"
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.mirrored_training", path],
        # In one thread, devices that wait for each other would wait for ever.
        env={
            key: value
            for key, value in os.environ.items()
            if not key.startswith("TF_NUM_")
        },
        stderr=subprocess.PIPE,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    results = collections.defaultdict(dict)
    with np.load(path) as arrays:
        for key in arrays:
            name, _, key_of_training = key.partition("/")
            results[name][key_of_training] = arrays[key]
    return Mirrored(dict(results), process.stderr)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> pathlib.Path:
    """The folder of a run of one epoch that was then made one longer."""
    from tests.support.training import SMALL
    from tests.support.training import run_main
    from tests.support.training import run_main_eagerly

    folder = tmp_path_factory.mktemp("runs") / "digits"
    run_main(model_dir=str(folder), epochs=1, mode="train", **SMALL)
    first_row = (folder / "metrics.csv").read_text()
    run_main_eagerly(model_dir=str(folder), epochs=2)
    assert (folder / "metrics.csv").read_text().startswith(first_row)
    return folder


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> pathlib.Path:
    """A folder as training leaves it: best.keras and metadata.json."""
    folder = tmp_path_factory.mktemp("model_dir")
    build_small_model().save(folder / "best.keras")
    metadata = {"class_names": CLASS_NAMES, "crop_fraction": 0.875}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture(scope="session")
def export_dir(model_dir, tmp_path_factory) -> pathlib.Path:
    """What `export.export_model` makes of `model_dir`, in all formats."""
    from export import exporter
    from tests.support.programs import Program
    from tests.support.programs import run_in_this_process

    run_to_end = exporter.run_to_end

    def run_checks_alone(command, environment):
        # To import everything once more would take most of the time.
        if "export.write_formats" in command:
            return run_in_this_process(command)
        return run_to_end(command, environment)

    folder = tmp_path_factory.mktemp("representative")
    random = np.random.default_rng(2)
    for number in range(8):
        image = random.integers(0, 256, (20, 24, 1)).astype("uint8")
        keras.utils.save_img(folder / f"{number}.png", image, scale=False)
    with mock.patch.object(exporter, "run_to_end", run_checks_alone):
        Program("export.export_model").run(
            model=str(model_dir / "best.keras"),
            representative_images=str(folder),
            # Its weights are drawn, hence rounding changes much.
            min_agreement=0.0,
        )
    return model_dir / "export"
