"""Evaluation of a run that another process trains."""

import csv
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from trainers import continuous_evaluation
from trainers import run_folder
from trainers.data.datasets import open_dataset
from trainers.program import UserError

EPOCHS = 5


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits")


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((8, 8, 1))
    logits = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, logits)


@pytest.fixture
def run_dir(digits, tmp_path):
    """A folder as it is before the first epoch of a run is done."""
    metadata = {"class_names": digits.class_names, "crop_fraction": 1.0}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    (tmp_path / "flags.json").write_text(
        json.dumps({"dataset": "digits", "epochs": EPOCHS})
    )
    return tmp_path


@pytest.fixture
def save(run_dir, model):
    """Saves last.keras of an epoch, which says that all are a class."""

    def save(epoch, says_epoch=True):
        kernel, _ = model.get_weights()
        model.set_weights([0 * kernel, np.eye(10)[epoch]])
        partial = run_dir / "partial-last.keras"
        model.save(run_dir / "saved.keras")
        os.replace(run_dir / "saved.keras", partial)
        if says_epoch:
            run_folder.write_epoch(partial, epoch)
        os.replace(partial, run_dir / "last.keras")

    return save


@pytest.fixture
def follow(run_dir, digits, monkeypatch):
    """Follows a run of which something happens at each look."""

    def follow(*happenings, timeout=60.0):
        left = list(happenings)

        def sleep(seconds):
            now[0] += seconds
            if left:
                left.pop(0)()

        now = [0.0]
        monkeypatch.setattr(continuous_evaluation.time, "sleep", sleep)
        monkeypatch.setattr(
            continuous_evaluation.time, "monotonic", lambda: now[0]
        )
        continuous_evaluation.follow(
            run_dir,
            digits,
            batch_size=120,
            strategy=tf.distribute.get_strategy(),
            timeout=timeout,
            interval=10.0,
        )
        assert not left

    return follow


def read_rows(run_dir):
    """Returns the epochs and accuracies; checks that the events are those."""
    with open(run_dir / "continuous_eval.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    events = []
    folder = run_dir / "logs" / "continuous_eval"
    for path in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            events += [
                (event.step, value.tag, float(tf.make_ndarray(value.tensor)))
                for value in event.summary.value
            ]
    expected = [
        (int(row["epoch"]), f"epoch_{name}", np.float32(row[name]))
        for row in rows
        for name in ("accuracy", "loss", "top_5_accuracy")
    ]
    assert sorted(events) == sorted(expected)
    return {int(row["epoch"]): float(row["accuracy"]) for row in rows}


@pytest.fixture(scope="module")
def shares(digits):
    """The share of each class, the accuracy of a model that says it."""
    labels = [label for _, label in digits.validation.examples]
    return np.bincount(labels) / len(labels)


@pytest.mark.slow
def test_each_new_network_is_evaluated_until_the_run_is_done(
    run_dir, save, follow, shares, capsys
):
    def do_nothing():
        pass

    follow(
        do_nothing,
        lambda: save(1),
        do_nothing,
        lambda: save(2),
        lambda: save(EPOCHS),
    )
    expected = {epoch - 1: shares[epoch] for epoch in (1, 2, EPOCHS)}
    assert read_rows(run_dir) == pytest.approx(expected)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "Epoch 1",
        "Epoch 2",
        "Epoch 5",
        "All 5 epochs are done.",
    ]
    assert f"top-1 {shares[2]:.2%}" in said[1]


@pytest.mark.slow
def test_evaluation_goes_on_where_it_stopped(
    run_dir, save, follow, shares, capsys
):
    save(3)
    follow(timeout=20)
    # What a process wrote that was killed before it wrote the row.
    folder = run_dir / "logs" / "continuous_eval"
    with tf.summary.create_file_writer(str(folder)).as_default():
        tf.summary.scalar("epoch_loss", 1.0, step=3)
    follow(lambda: save(4), timeout=20)
    assert list(read_rows(run_dir)) == [2, 3]
    said = capsys.readouterr().out
    assert said.count("Epoch 3: ") == said.count("Epoch 4: ") == 1
    assert said.count("No new network in 20 seconds") == 2
    # The run began anew.
    follow(lambda: save(1), timeout=20)
    assert read_rows(run_dir) == pytest.approx({0: shares[1]})


@pytest.mark.slow
def test_half_of_a_network_is_read_again(run_dir, save, follow):
    def damage():
        path = run_dir / "last.keras"
        whole.append(path.read_bytes())
        path.write_bytes(whole[0][:-100])

    def mend():
        (run_dir / "last.keras").write_bytes(whole[0])

    whole = []
    save(2)
    damage()
    follow(mend, timeout=20)
    assert list(read_rows(run_dir)) == [1]


def test_network_of_no_epoch_is_one_line(save, follow):
    save(1, says_epoch=False)
    with pytest.raises(UserError, match="does not say of which epoch") as error:
        follow()
    assert "\n" not in str(error.value)


def test_damaged_rows_are_one_line(run_dir, follow):
    (run_dir / "continuous_eval.csv").write_bytes(b"epoch,\n1,\xff")
    with pytest.raises(UserError, match=r"continuous_eval\.csv is damaged"):
        follow()


def test_run_that_never_begins_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        continuous_evaluation.time, "sleep", lambda seconds: None
    )
    with pytest.raises(UserError, match="none began in 0 seconds") as error:
        continuous_evaluation.wait_for_run(tmp_path / "none", timeout=0)
    assert "\n" not in str(error.value)
    assert "Waiting for a run" in capsys.readouterr().out


def test_run_that_begins_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(
        continuous_evaluation.time,
        "sleep",
        lambda seconds: (tmp_path / "flags.json").write_text("{}"),
    )
    continuous_evaluation.wait_for_run(tmp_path, timeout=60)
    assert (tmp_path / "flags.json").exists()
