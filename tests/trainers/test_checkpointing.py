"""What a run saves, and that a stopped one goes on as if it had not."""

import csv
import itertools
import shutil

import keras
import numpy as np
import pytest

from trainers import checkpointing
from trainers import evaluation
from trainers import optimization
from trainers import training
from trainers.data.datasets import open_dataset
from trainers.data.image_dataset import ImageDataset
from trainers.program import UserError
from trainers.settings import make_recipe
from trainers.settings import resolve_flags

EPOCHS = 3
STEPS = 2


@pytest.fixture(scope="module")
def dataset():
    digits = open_dataset("digits")
    # The fewest digits that make two batches.
    train = digits.train
    return ImageDataset(
        digits.class_names,
        channels=1,
        train=type(train)(train.examples.take(70), 70, 70, train.load),
        validation=digits.validation,
    )


@pytest.fixture(scope="module")
def recipe():
    flags = {"epochs": EPOCHS, "batch_size": 32, "image_size": 8}
    return make_recipe(resolve_flags(flags, saved={}))


def make_model(recipe, units=10):
    """Returns a small model with all that has state: dropout, batch norm."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
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
    optimization.compile_classifier(model, recipe, steps_per_epoch=STEPS)
    return model


def train(recipe, dataset, model_dir, units=10):
    model = make_model(recipe, units)
    training.train(model, recipe, dataset, model_dir=model_dir, seed=0)
    return model


@pytest.fixture(scope="module")
def whole_run(recipe, dataset, tmp_path_factory):
    """An uninterrupted run: its folder and its model."""
    model_dir = tmp_path_factory.mktemp("whole_run")
    return model_dir, train(recipe, dataset, model_dir)


def interrupt(monkeypatch, method, count):
    """Stops training as Ctrl-C does, at the `count`-th call of a method."""
    original = getattr(checkpointing.Checkpoint, method)
    calls = itertools.count(1)

    def stop(*arguments, **named_arguments):
        if next(calls) == count:
            raise KeyboardInterrupt
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "count"),
    [("on_train_batch_end", 1), ("on_train_batch_end", 4), ("_write_state", 2)],
    ids=["first_epoch", "second_epoch", "while_saving"],
)
def test_resumed_run_equals_an_uninterrupted_one(
    method, count, recipe, dataset, whole_run, tmp_path, monkeypatch
):
    whole_dir, whole_model = whole_run
    with monkeypatch.context() as patch:
        interrupt(patch, method, count)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, dataset, tmp_path)
    model = train(recipe, dataset, tmp_path)

    assert_equal_weights(model, whole_model)
    for name in ("best.keras", "last.keras"):
        assert_equal_weights(
            evaluation.load_model(tmp_path / name),
            evaluation.load_model(whole_dir / name),
        )
    assert read_metrics(tmp_path) == read_metrics(whole_dir)
    epochs = [row[0] for row in read_metrics(tmp_path)]
    assert epochs == ["epoch", "0", "1", "2"]


@pytest.mark.slow
def test_longer_run_keeps_the_epochs_that_are_done(
    recipe, dataset, whole_run, tmp_path
):
    whole_dir, _ = whole_run
    shutil.copytree(whole_dir, tmp_path, dirs_exist_ok=True)
    rows = read_metrics(tmp_path)
    longer = make_recipe(
        resolve_flags(
            {"epochs": EPOCHS + 1, "batch_size": 32, "image_size": 8}, saved={}
        )
    )
    train(longer, dataset, tmp_path)
    assert read_metrics(tmp_path)[:-1] == rows
    # And a run that is done does nothing more.
    train(recipe, dataset, tmp_path)
    assert len(read_metrics(tmp_path)) == len(rows) + 1


def save_epochs(model_dir, model, metrics):
    checkpoint = checkpointing.Checkpoint(model_dir)
    checkpoint.restore(model)
    checkpoint.set_model(model)
    for epoch, (accuracy, loss) in enumerate(metrics):
        model.layers[-1].bias.assign(np.full(10, epoch))
        checkpoint.on_epoch_end(
            epoch, {"val_accuracy": accuracy, "val_loss": loss}
        )


def read_bias(path):
    return evaluation.load_model(path).layers[-1].bias.numpy()[0]


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ([(0.5, 1.0), (0.9, 3.0), (0.7, 2.0)], 1),
        ([(0.5, 1.0), (0.9, 3.0), (0.9000000001, 2.0)], 2),
        ([(0.5, 1.0), (0.9, 2.0), (0.9000000001, 3.0)], 1),
    ],
    ids=["most_accurate", "tie_with_lower_loss", "tie_with_higher_loss"],
)
def test_best_epoch_is_kept(metrics, best, recipe, tmp_path):
    save_epochs(tmp_path, make_model(recipe), metrics)
    assert read_bias(tmp_path / "best.keras") == best
    assert read_bias(tmp_path / "last.keras") == 2


def test_best_epoch_survives_a_resumption(recipe, tmp_path):
    save_epochs(tmp_path, make_model(recipe), [(0.8, 2.0), (0.9, 1.0)])
    save_epochs(tmp_path, make_model(recipe), [(0.85, 1.0)])
    assert read_bias(tmp_path / "best.keras") == 1


@pytest.mark.parametrize("size", [0, 100, 2000], ids=["empty", "head", "half"])
def test_damaged_state_is_named(size, recipe, tmp_path):
    model = make_model(recipe)
    save_epochs(tmp_path, model, [(0.8, 2.0)])
    path = tmp_path / "train_state.npz"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match="is damaged; delete it"):
        checkpointing.Checkpoint(tmp_path).restore(model)


def test_state_of_another_network_is_refused(recipe, tmp_path):
    save_epochs(tmp_path, make_model(recipe), [(0.8, 2.0)])
    with pytest.raises(UserError, match="of another network"):
        checkpointing.Checkpoint(tmp_path).restore(make_model(recipe, units=9))


def test_failed_save_leaves_the_last_state(recipe, tmp_path, monkeypatch):
    model = make_model(recipe)
    save_epochs(tmp_path, model, [(0.8, 2.0)])
    before = (tmp_path / "train_state.npz").read_bytes()

    def fail(path, *values, **named):
        path.write_bytes(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="No space"):
        save_epochs(tmp_path, model, [(0.8, 2.0)])
    assert (tmp_path / "train_state.npz").read_bytes() == before


@pytest.mark.slow
def test_loss_that_is_not_finite_is_one_line(dataset, tmp_path):
    recipe = make_recipe(
        resolve_flags(
            {"batch_size": 32, "image_size": 8, "learning_rate": 1e30}, {}
        )
    )
    with pytest.raises(UserError, match="smaller --learning_rate"):
        train(recipe, dataset, tmp_path)
    assert not (tmp_path / "train_state.npz").exists()
