"""What a run saves, and that a stopped one goes on as if it had not."""

import csv
import dataclasses
import itertools
import os
import shutil
import signal
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from trainers import checkpointing
from trainers import evaluation
from trainers import optimization
from trainers import training
from trainers.averaging import AveragedModel
from trainers.data.datasets import open_dataset
from trainers.data.image_dataset import ImageDataset
from trainers.files import RemotePath
from trainers.files import make_path
from trainers.program import Terminated
from trainers.program import UserError
from trainers.run_folder import list_states
from trainers.settings import Run
from trainers.settings import make_recipe
from trainers.settings import resolve_flags
from trainers.strategies import find_devices
from trainers.train_state import DamagedStateError
from trainers.train_state import read_state

EPOCHS = 3
STEPS = 3


@pytest.fixture(scope="module")
def dataset():
    digits = open_dataset("digits")

    def take(split, size):
        return type(split)(split.examples.take(size), size, size, split.load)

    train = digits.train
    others = train.examples.skip(40).map(
        lambda image, label: (image, 0.8 * tf.one_hot(label, 10) + 0.02)
    )
    return ImageDataset(
        digits.class_names,
        channels=1,
        # Passes through both end within epochs.
        train=take(train, 40),
        # One batch and a second that is not full.
        validation=take(digits.validation, 50),
        pseudo_labelled=type(train)(others.take(50), 50, 50, train.load),
    )


@pytest.fixture(scope="module", autouse=True)
def local_pictures():
    """To draw the first batch and the curves takes longer than to train."""
    draw_first_batch = training.draw_first_batch
    plot_training_curves = training.plots.plot_training_curves

    def draw(recipe, dataset, run, path):
        if isinstance(path, RemotePath):
            draw_first_batch(recipe, dataset, run, path)
        else:
            keras.utils.save_img(path, np.zeros((1, 1, 3)), scale=False)

    def plot(metrics_file, picture_file):
        if isinstance(picture_file, RemotePath):
            plot_training_curves(metrics_file, picture_file)

    with (
        mock.patch.object(training, "draw_first_batch", draw),
        mock.patch.object(training.plots, "plot_training_curves", plot),
    ):
        yield


@pytest.fixture(scope="module")
def recipe():
    flags = {
        "epochs": EPOCHS,
        "batch_size": 32,
        "image_size": 8,
        "mixup_alpha": 0.2,
        "pseudo_ratio": 3.0,
        "pseudo_loss_weight": 0.5,
        "steps_per_epoch": STEPS,
    }
    return make_recipe(resolve_flags(flags, saved={}))


def make_model(recipe, units=10):
    """Returns a small model with all that has state: dropout, averages."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 127.5, offset=-1.0),
            keras.layers.Flatten(),
            keras.layers.Dense(units),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(10),
        ]
    )
    return compile_averaged(network, recipe)


def compile_averaged(network, recipe):
    model = AveragedModel(network, momentum=0.9)
    optimization.compile_classifier(model, recipe, steps_per_epoch=STEPS)
    return model


def train(recipe, dataset, model_dir, *, in_graphs=False, **options):
    model = make_model(recipe)
    # To make graphs takes longer than a few steps.
    model.run_eagerly = not in_graphs
    run = Run(**options)
    where = {"run": run, "devices": find_devices()}
    checkpoint = training.restore(model, model_dir=model_dir, **where)
    training.train(model, recipe, dataset, checkpoint=checkpoint, **where)
    return model


@pytest.fixture(scope="module")
def whole_run(recipe, dataset, tmp_path_factory):
    """An uninterrupted run: its folder and its model."""
    model_dir = tmp_path_factory.mktemp("whole_run")
    return model_dir, train(recipe, dataset, model_dir)


def raise_interrupt():
    raise KeyboardInterrupt


def interrupt(monkeypatch, method, count, how=raise_interrupt):
    """Stops training as Ctrl-C does, at the `count`-th call of a method."""
    original = getattr(checkpointing.Checkpoint, method)
    calls = itertools.count(1)

    def stop(*arguments, **named_arguments):
        if next(calls) == count:
            how()
        return original(*arguments, **named_arguments)

    monkeypatch.setattr(checkpointing.Checkpoint, method, stop)


def assert_equal_weights(model, other):
    for weight, value in zip(
        model.get_weights(), other.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, value)


def read_metrics(model_dir):
    with open(model_dir / "metrics.csv", newline="") as file:
        return list(csv.reader(file))


def assert_equal_states(model_dir, other_dir):
    state, other = (
        read_state(list_states(folder)[-1]) for folder in (model_dir, other_dir)
    )
    assert (state.epoch, state.step) == (other.epoch, other.step)
    assert (state.best, state.rows) == (other.best, other.rows)
    for value, expected in zip(state.values, other.values, strict=True):
        np.testing.assert_array_equal(value, expected)


def read_events(model_dir):
    """Returns the tag and the step of all events, those of speed apart."""
    events = []
    for path in sorted((model_dir / "logs").rglob("*.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            events += [
                (path.parent.name, value.tag, event.step)
                for value in event.summary.value
            ]
    return sorted(events)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "count", "every"),
    [
        ("on_train_batch_end", 1, 0),
        ("on_train_batch_end", 5, 0),
        ("on_train_batch_end", 6, 1),
        ("on_train_batch_end", 3, 2),
        ("_write_state", 2, 0),
        ("_write_state", 5, 1),
        ("_remove_others", 4, 1),
    ],
)
def test_resumed_run_equals_an_uninterrupted_one(
    method, count, every, recipe, dataset, whole_run, tmp_path, monkeypatch
):
    whole_dir, whole_model = whole_run
    with monkeypatch.context() as patch:
        interrupt(patch, method, count)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, dataset, tmp_path, checkpoint_every_steps=every)
    model = train(recipe, dataset, tmp_path, checkpoint_every_steps=every)

    assert_equal_weights(model, whole_model)
    for name in ("best.keras", "last.keras"):
        assert_equal_weights(
            evaluation.load_model(tmp_path / name),
            evaluation.load_model(whole_dir / name),
        )
    assert_equal_states(tmp_path, whole_dir)
    assert (tmp_path / "metrics.csv").read_bytes() == (
        whole_dir / "metrics.csv"
    ).read_bytes()
    epochs = [row[0] for row in read_metrics(tmp_path)]
    assert epochs == ["epoch", "0", "1", "2"]
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line[6:9] for line in lines] == ["1/3", "2/3", "3/3"]
    assert read_events(tmp_path) == read_events(whole_dir)
    assert len(list_states(tmp_path)) == 2


@pytest.mark.slow
def test_resumed_run_of_graphs_equals_an_uninterrupted_one(
    recipe, dataset, tmp_path, monkeypatch
):
    whole_dir, stopped_dir = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole_dir, stopped_dir):
        folder.mkdir()
    whole_model = train(recipe, dataset, whole_dir, in_graphs=True)
    with monkeypatch.context() as patch:
        interrupt(patch, "on_train_batch_end", 5)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, dataset, stopped_dir, in_graphs=True)
    model = train(recipe, dataset, stopped_dir, in_graphs=True)
    assert_equal_weights(model, whole_model)
    assert_equal_states(stopped_dir, whole_dir)


@pytest.mark.slow
def test_termination_saves_a_state_within_the_epoch(
    recipe, dataset, whole_run, tmp_path, monkeypatch
):
    whole_dir, _ = whole_run
    with monkeypatch.context() as patch:
        interrupt(
            patch,
            "on_train_batch_end",
            5,
            lambda: os.kill(os.getpid(), signal.SIGTERM),
        )
        with pytest.raises(Terminated):
            train(recipe, dataset, tmp_path)
    assert list_states(tmp_path)[-1].name == "state-000001-000000002.npz"
    train(recipe, dataset, tmp_path)
    assert_equal_states(tmp_path, whole_dir)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
def test_run_in_an_object_store_equals_a_local_one(recipe, dataset, whole_run):
    whole_dir, _ = whole_run
    folder = make_path(f"ram://runs/{os.getpid()}")
    folder.mkdir(parents=True)
    train(recipe, dataset, folder)
    assert_equal_states(folder, whole_dir)
    assert (folder / "metrics.csv").read_bytes() == (
        whole_dir / "metrics.csv"
    ).read_bytes()
    assert_equal_weights(
        evaluation.load_model(folder / "best.keras"),
        evaluation.load_model(whole_dir / "best.keras"),
    )


@pytest.mark.slow
def test_longer_run_keeps_the_epochs_that_are_done(
    recipe, dataset, whole_run, tmp_path
):
    whole_dir, _ = whole_run
    shutil.copytree(whole_dir, tmp_path, dirs_exist_ok=True)
    rows = read_metrics(tmp_path)
    longer = dataclasses.replace(recipe, epochs=EPOCHS + 1)
    train(longer, dataset, tmp_path)
    assert read_metrics(tmp_path)[:-1] == rows
    # And a run that is done does nothing more.
    train(recipe, dataset, tmp_path)
    assert len(read_metrics(tmp_path)) == len(rows) + 1


def save_epochs(model_dir, model, metrics):
    """Saves epochs of networks whose bias is the epoch, the average's + 0.5."""
    checkpoint = checkpointing.Checkpoint(model_dir)
    checkpoint.restore(model)
    checkpoint.set_model(model)
    for epoch, (accuracy, loss, *of_average) in enumerate(metrics):
        get_bias(model.network).assign(np.full(10, epoch))
        get_bias(model.average).assign(np.full(10, epoch + 0.5))
        logs = {"val_accuracy": accuracy, "val_loss": loss}
        if of_average:
            accuracy, loss = of_average
            logs |= {"val_average_accuracy": accuracy, "val_average_loss": loss}
        checkpoint.on_epoch_end(epoch, logs)
    return checkpoint


def get_bias(network):
    return network.layers[-1].bias


def read_bias(path):
    return get_bias(evaluation.load_model(path)).numpy()[0]


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ([(0.5, 1.0), (0.9, 3.0), (0.7, 2.0)], 1),
        ([(0.5, 1.0), (0.9, 3.0), (0.9000000001, 2.0)], 2),
        ([(0.5, 1.0), (0.9, 2.0), (0.9000000001, 3.0)], 1),
        (
            [
                (0.5, 1.0, 0.4, 1.0),
                (0.7, 2.0, 0.9, 2.0),
                (0.8, 2.0, 0.9, 2.5),
            ],
            1.5,
        ),
        (
            [
                (0.5, 1.0, 0.4, 1.0),
                (0.7, 2.0, 0.8, 2.0),
                (0.9, 2.0, 0.9, 2.0),
            ],
            2,
        ),
    ],
    ids=[
        "most_accurate",
        "tie_with_lower_loss",
        "tie_with_higher_loss",
        "average",
        "tie_with_average",
    ],
)
def test_best_epoch_is_kept(metrics, best, recipe, tmp_path):
    save_epochs(tmp_path, make_model(recipe), metrics)
    assert read_bias(tmp_path / "best.keras") == best
    assert read_bias(tmp_path / "last.keras") == 2


def test_epochs_since_the_best_are_counted(recipe, tmp_path):
    accuracies = [(0.5, 1.0), (0.9, 1.0), (0.7, 1.0, 0.9, 1.0), (0.8, 1.0)]
    checkpoint = save_epochs(tmp_path, make_model(recipe), accuracies)
    assert checkpoint.count_epochs_since_best() == 2
    again = checkpointing.Checkpoint(tmp_path)
    assert again.count_epochs_since_best() == 0
    again.restore(make_model(recipe))
    assert again.count_epochs_since_best() == 2


def test_best_epoch_survives_a_resumption(recipe, tmp_path):
    save_epochs(tmp_path, make_model(recipe), [(0.8, 2.0), (0.9, 1.0)])
    save_epochs(tmp_path, make_model(recipe), [(0.85, 1.0)])
    assert read_bias(tmp_path / "best.keras") == 1


def save_two_states(recipe, model_dir):
    save_epochs(model_dir, make_model(recipe), [(0.8, 2.0), (0.9, 1.0)])
    return list_states(model_dir)


def damage(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("size", [0, 100, 2000], ids=["empty", "head", "half"])
def test_damaged_state_gives_way_to_the_one_before(
    size, recipe, tmp_path, capsys
):
    _, last = save_two_states(recipe, tmp_path)
    damage(last, size)
    checkpoint = checkpointing.Checkpoint(tmp_path)
    model = make_model(recipe)
    checkpoint.restore(model)
    assert capsys.readouterr().out == (
        f"Warning: {last} is damaged; the one before is used.\n"
    )
    assert checkpoint.epoch == 1
    assert get_bias(model.network).numpy()[0] == 0
    # It does not count among those that are kept.
    checkpoint.set_model(model)
    checkpoint.on_epoch_end(1, {"val_accuracy": 0.9, "val_loss": 1.0})
    assert [read_state(p).epoch for p in list_states(tmp_path)] == [1, 2]


def test_each_flipped_bit_of_a_state_is_noticed(recipe, tmp_path):
    path = save_two_states(recipe, tmp_path)[-1]
    contents = path.read_bytes()
    for bit in np.random.default_rng(0).integers(0, 8 * len(contents), 300):
        flipped = bytearray(contents)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedStateError):
            read_state(path)


def test_nothing_but_damaged_states_is_one_line(recipe, tmp_path):
    for path in save_two_states(recipe, tmp_path):
        damage(path, 100)
    with pytest.raises(UserError, match="none before it that is whole"):
        checkpointing.Checkpoint(tmp_path).restore(make_model(recipe))


@pytest.mark.parametrize("flip", range(5))
def test_damaged_best_model_is_found_before_training(flip, recipe, tmp_path):
    save_two_states(recipe, tmp_path)
    path = tmp_path / "best.keras"
    contents = bytearray(path.read_bytes())
    contents[-30 if flip == 4 else len(contents) * (2 * flip + 1) // 10] ^= 16
    path.write_bytes(contents)
    with pytest.raises(UserError, match=r"best\.keras is damaged; delete"):
        checkpointing.Checkpoint(tmp_path).restore(make_model(recipe))


def test_missing_best_model_is_replaced(recipe, tmp_path):
    save_two_states(recipe, tmp_path)
    (tmp_path / "best.keras").unlink()
    save_epochs(tmp_path, make_model(recipe), [(0.1, 3.0)])
    assert read_bias(tmp_path / "best.keras") == 0


def test_damaged_metrics_are_written_again(recipe, tmp_path):
    save_two_states(recipe, tmp_path)
    path = tmp_path / "metrics.csv"
    before = path.read_bytes()
    path.write_bytes(b"\xff\x00day" + before[5:])
    checkpoint = checkpointing.Checkpoint(tmp_path)
    checkpoint.restore(make_model(recipe))
    checkpoint.roll_back()
    assert path.read_bytes() == before


def test_state_of_another_network_is_refused(recipe, tmp_path):
    save_two_states(recipe, tmp_path)
    with pytest.raises(UserError, match="of another network"):
        checkpointing.Checkpoint(tmp_path).restore(make_model(recipe, units=9))


def test_state_of_other_names_is_refused(recipe, tmp_path):
    save_two_states(recipe, tmp_path)
    model = make_model(recipe)
    other = keras.models.clone_model(
        model.network,
        clone_function=lambda layer: type(layer).from_config(
            {**layer.get_config(), "name": f"other_{layer.name}"}
        ),
    )
    with pytest.raises(UserError, match="of another network"):
        checkpointing.Checkpoint(tmp_path).restore(
            compile_averaged(other, recipe)
        )


def test_failed_save_leaves_the_last_state(recipe, tmp_path, monkeypatch):
    states = save_two_states(recipe, tmp_path)
    before = [path.read_bytes() for path in states]

    def fail(file, **named):
        file.write(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="No space"):
        save_epochs(tmp_path, make_model(recipe), [(0.8, 2.0)])
    assert list_states(tmp_path) == states
    assert [path.read_bytes() for path in states] == before


@pytest.mark.slow
def test_loss_that_is_not_finite_is_one_line(dataset, tmp_path):
    recipe = make_recipe(
        resolve_flags(
            {"batch_size": 32, "image_size": 8, "learning_rate": 1e30}, {}
        )
    )
    # After more steps than the others take.
    with pytest.raises(UserError, match="smaller --learning_rate"):
        train(recipe, dataset, tmp_path, in_graphs=True)
    assert not list_states(tmp_path)
