"""How a run fits its devices, its data, and the weights it begins with."""

from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.training import SMALL
from trainers import classifier
from trainers import training
from trainers.averaging import AveragedModel
from trainers.data.datasets import open_dataset
from trainers.distributed_model import DistributedModel
from trainers.program import UserError
from trainers.settings import make_recipe
from trainers.settings import make_run
from trainers.settings import resolve_flags
from trainers.strategies import Devices
from trainers.strategies import find_devices


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits")


def make_model(dataset, **flags):
    """Makes the model of a run on one device."""
    resolved = resolve_flags({**SMALL, **flags}, saved={})
    recipe, run = make_recipe(resolved), make_run(resolved)
    return training.make_model(recipe, dataset, run, find_devices())


@pytest.mark.parametrize(
    ("flags", "count", "backend", "message"),
    [
        ({"batch_size": 1438}, 1, "tensorflow", "must be at most 1437"),
        ({"batch_size": 63}, 2, "tensorflow", "divisible by 2"),
        (
            {"batch_size": 62, "gradient_accumulation_steps": 4},
            2,
            "tensorflow",
            "divisible by 8",
        ),
        ({"steps_per_execution": 4}, 1, "tensorflow", "must divide 22"),
        ({"jit_compile": True}, 2, "tensorflow", "needs one device"),
        ({"ema_momentum": 0.9}, 2, "jax", "give --ema_momentum=0"),
        (
            {"gradient_accumulation_steps": 2},
            1,
            "jax",
            "give --gradient_accumulation_steps=1",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(digits, flags, count, backend, message):
    resolved = resolve_flags(flags, saved={})
    devices = Devices(tf.distribute.get_strategy(), count, 1, is_chief=True)
    with (
        mock.patch.object(keras.backend, "backend", return_value=backend),
        pytest.raises(UserError, match=message) as error,
    ):
        training.check_batches(
            make_recipe(resolved), digits, make_run(resolved), devices
        )
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_average_is_made_if_the_recipe_has_one(digits):
    model = make_model(digits, ema_momentum=0.5)
    assert type(model) is AveragedModel
    assert model.momentum == 0.5
    model = make_model(digits, gradient_accumulation_steps=2)
    assert type(model) is DistributedModel
    assert model.gradient_accumulation_steps == 2


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [10, 7])
def test_run_begins_with_weights_of_another_size(
    digits, tmp_path, num_classes, capsys
):
    recipe = make_recipe(resolve_flags({**SMALL, "image_size": 8}, saved={}))
    trained = classifier.build_classifier(
        recipe, channels=1, num_classes=num_classes
    )
    random = np.random.default_rng(0)
    trained.set_weights([random.normal(size=w.shape) for w in trained.weights])
    path = tmp_path / "trained.keras"
    trained.save(path)
    model = make_model(digits, weights=str(path), image_size=16)
    theirs, ours = (
        {w.path: w.numpy() for w in network.weights}
        for network in (trained, model.network)
    )
    left_out = [name for name in ours if name.startswith("predictions")]
    assert len(left_out) == 2
    for name in ours:
        if name in left_out and num_classes != 10:
            assert theirs[name].shape != ours[name].shape
        else:
            np.testing.assert_array_equal(theirs[name], ours[name])
    is_said = "without its classifier" in capsys.readouterr().out
    assert is_said == (num_classes != 10)


@pytest.mark.slow
def test_weights_of_another_network_are_one_line(digits, tmp_path):
    recipe = make_recipe(
        resolve_flags({**SMALL, "width_multiplier": 0.25}, saved={})
    )
    path = tmp_path / "other.keras"
    classifier.build_classifier(recipe, channels=1, num_classes=10).save(path)
    for wrong in (path, __file__):
        with pytest.raises(UserError, match="--weights must be") as error:
            make_model(digits, weights=str(wrong))
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stages", "first_trained"),
    [(0, "stem_1_conv"), (1, "c2_block1_1_conv"), (5, "predictions")],
)
def test_frozen_stages_do_not_train(digits, stages, first_trained):
    model = make_model(digits, frozen_stages=stages, ema_momentum=0.9)
    paths = [v.path for v in model.trainable_variables]
    assert first_trained in paths[0]
    frozen = [
        layer
        for layer in classifier.get_network(model.network).layers
        if layer.weights and not layer.trainable_weights
    ]
    before = [w.numpy() for layer in frozen for w in layer.weights]
    model.run_eagerly = True
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (4, 16, 16, 1)).astype("float32")
    model.fit(images, np.eye(10, dtype="float32")[:4], verbose=0)
    after = [w.numpy() for layer in frozen for w in layer.weights]
    assert bool(frozen) == bool(stages)
    for value, expected in zip(after, before, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(
    ("patience", "since_best", "is_due"),
    [(0, 9, False), (3, 2, False), (3, 3, True), (3, 4, True)],
)
def test_training_ends_after_epochs_without_a_better_one(
    patience, since_best, is_due
):
    checkpoint = mock.Mock()
    checkpoint.count_epochs_since_best.return_value = since_best
    stop = training.StopEarly(checkpoint, patience)
    stop.set_model(mock.Mock(stop_training=False))
    assert stop.is_due() == is_due
    stop.on_epoch_end(5)
    assert stop.model.stop_training == is_due
