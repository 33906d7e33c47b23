"""What training says of its epochs, and how its steps are timed."""

import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers import progress


class Time:
    """A clock that goes on when it is told to."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


@pytest.fixture
def clock_time(monkeypatch):
    time = Time()
    monkeypatch.setattr(progress, "time", time)
    return time


def drive(clock, time, *, fetch, step, other, waits=None):
    """Runs an epoch as Keras does; lists take the seconds of each step.

    Args:
        fetch: seconds until the batch is there, in the step's function.
        step: seconds of the rest of the step.
        other: seconds of other callbacks, before the clock's.
        waits: seconds between two steps.
    """

    def fetch_batches():
        for seconds in fetch:
            time.pass_by(seconds)
            yield "batch"

    seconds_of_steps = iter(step)

    def run_step(iterator):
        assert next(iterator) == "batch"
        time.pass_by(next(seconds_of_steps))

    clock.set_params({"steps": len(step)})
    clock.set_model(
        SimpleNamespace(
            train_function=run_step,
            steps_per_execution=1,
            distribute_strategy=tf.distribute.get_strategy(),
        )
    )
    clock.on_train_begin()
    clock.on_epoch_begin(0)
    batches = fetch_batches()
    for number in range(len(step)):
        time.pass_by(waits[number] if waits else 0)
        clock.on_train_batch_begin(number)
        clock.model.train_function(batches)
        time.pass_by(other)
        clock.on_train_batch_end(number)
    clock.on_epoch_end(0)
    clock.on_train_end()
    assert clock.model.train_function is run_step


def test_wait_is_what_fetching_takes_after_the_first_step(clock_time):
    clock = progress.StepClock(batch_size=8)
    drive(clock, clock_time, fetch=[50, 3, 0], step=[900, 1, 1], other=0.5)
    # Two steps of 8 in 3 + 1 + 0.5 and 0 + 1 + 0.5 seconds.
    assert clock.images_per_second == pytest.approx(16 / 6)
    assert clock.waiting_share == pytest.approx(3 / 6)


def test_wait_between_steps_counts_on_other_backends(clock_time, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    clock = progress.StepClock(batch_size=8)
    drive(
        clock,
        clock_time,
        fetch=[0, 0, 0],
        step=[900, 1, 1],
        other=0.5,
        waits=[50, 4, 1],
    )
    assert clock.images_per_second == pytest.approx(16 / 8)
    assert clock.waiting_share == pytest.approx(5 / 8)


def test_only_step_is_timed(clock_time):
    clock = progress.StepClock(batch_size=8)
    drive(clock, clock_time, fetch=[1], step=[3], other=0)
    assert clock.images_per_second == pytest.approx(2)
    assert clock.waiting_share == pytest.approx(0.25)


def fit(callbacks, steps_per_execution=1):
    """Returns the weights that a small model has after two epochs."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
    random = np.random.default_rng(0)
    batches = tf.data.Dataset.from_tensor_slices(
        (random.normal(size=(16, 3)), random.normal(size=(16, 2)))
    ).batch(4)
    model.fit(
        batches.repeat(2),
        epochs=2,
        steps_per_epoch=4,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return model.get_weights()


def test_timed_steps_compute_what_others_do():
    shares = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            shares.append(clock.waiting_share)

    clock = progress.StepClock(batch_size=4)
    timed = fit([clock, Look()])
    for value, expected in zip(timed, fit([]), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert clock.images_per_second > 0
    assert all(0 < share < 1 for share in shares)


def test_wait_within_a_compiled_function_is_unknown():
    clock = progress.StepClock(batch_size=4)
    fit([clock], steps_per_execution=2)
    assert clock.images_per_second > 0
    assert clock.waiting_share is None


LOGS = {"loss": 2.34567, "accuracy": 0.125, "val_loss": 1.5, "val_accuracy": 1}


def format_epoch(**values):
    return progress.format_epoch(
        3,
        10,
        **{
            "logs": LOGS,
            "images_per_second": 1234.5,
            "waiting_share": 0.046,
            "seconds": 61.2,
            **values,
        },
    )


def test_line_says_all_of_an_epoch():
    assert format_epoch() == (
        "Epoch  3/10  loss 2.3457, top-1 12.50%  validation 1.5000, 100.00%  "
        "1,234 images/s  wait 5%  0:01:01"
    )
    average = {"val_average_loss": 1.25, "val_average_accuracy": 0.5}
    line = format_epoch(logs={**LOGS, **average}, waiting_share=None)
    assert "  average 1.2500, 50.00%  " in line
    assert "  wait unknown  " in line


def test_log_keeps_the_epochs_that_are_done(tmp_path):
    path = tmp_path / "train.log"
    log = progress.EpochLog(path)
    log.roll_back(0)
    assert not path.exists()
    for line in ("Epoch  1/10  a", "Epoch  2/10  b", "Epoch  3/10  c"):
        log.add(line)
    # What else is in it, such as half a line, is no epoch.
    path.write_bytes(path.read_bytes() + b"Epo\xff")
    log = progress.EpochLog(path)
    log.roll_back(2)
    assert path.read_text() == "Epoch  1/10  a\nEpoch  2/10  b\n"
    log.add("Epoch  3/12  d")
    assert path.read_text().endswith("b\nEpoch  3/12  d\n")


class Bar(progress.tqdm):
    """A bar that is drawn at each step, however short."""

    def __init__(self, **values):
        super().__init__(**values, mininterval=0, miniters=1)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_epochs_are_said_and_logged(tmp_path, capsys, monkeypatch, is_terminal):
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    monkeypatch.setattr(progress, "tqdm", Bar)
    log = progress.EpochLog(tmp_path / "train.log")
    clock = progress.StepClock(batch_size=4)
    callback = progress.Progress(clock, log, epochs=2, steps=4)
    log_later = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(accuracy=0.5)
    )
    fit([log_later, callback, clock])
    said = capsys.readouterr().out
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line[:15] for line in lines] == [
        "Epoch 1/2  loss",
        "Epoch 2/2  loss",
    ]
    assert all(line in said for line in lines)
    bars = re.findall(
        r"Epoch 2/2 \|.+\| .* images/s, loss .*, wait .*%, left 0.* of 0.*",
        said,
    )
    assert bool(bars) == is_terminal
    if not is_terminal:
        assert said.splitlines() == lines
