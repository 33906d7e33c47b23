"""Events for TensorBoard beside those that Keras writes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from trainers import event_log
from trainers.progress import StepClock


def read_values(folder):
    """Returns `(tag, step, value)` of all events in a folder."""
    values = []
    for path in sorted(folder.glob("*.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            values += [
                (value.tag, event.step, tf.make_ndarray(value.tensor))
                for value in event.summary.value
            ]
    return values


def fit(events, epochs):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    events.clock = StepClock(batch_size=2)
    model.fit(
        tf.data.Dataset.from_tensors((np.ones((2, 3)), np.ones((2, 2)))).repeat(
            4 * epochs
        ),
        epochs=epochs,
        steps_per_epoch=4,
        shuffle=False,
        verbose=0,
        callbacks=[events, events.clock],
    )


@pytest.mark.slow
def test_each_epoch_has_its_speed_and_rate_and_a_profile_is_taken(tmp_path):
    fit(event_log.EventLog(tmp_path, profile_steps=(2, 3)), epochs=2)
    values = {
        (tag, step): value
        for tag, step, value in read_values(tmp_path / "train")
    }
    for epoch in range(2):
        assert values["epoch_images_per_second", epoch] > 0
        np.testing.assert_allclose(values["epoch_learning_rate", epoch], 0.01)
    profiles = tmp_path / "train" / "plugins" / "profile"
    assert [path.suffix for path in profiles.glob("*/*")] == [".pb"]


def test_picture_is_written_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    path = tmp_path / "picture.png"
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    event_log.write_picture(tmp_path / "logs", "batch", path)
    ((tag, step, value),) = read_values(tmp_path / "logs")
    assert (tag, step) == ("batch", 0)
    assert value[:2].tolist() == [b"4", b"5"]
    np.testing.assert_array_equal(tf.io.decode_png(value[2]), pixels)


def test_rolling_back_leaves_the_events_of_other_processes(tmp_path):
    for name in ("train", "continuous_eval"):
        with tf.summary.create_file_writer(str(tmp_path / name)).as_default():
            tf.summary.scalar("loss", 1.0, step=0)
    assert [name[:6] for name in event_log.measure_files(tmp_path)] == [
        "train/"
    ]
    event_log.roll_back(tmp_path, {})
    assert not read_values(tmp_path / "train")
    assert len(read_values(tmp_path / "continuous_eval")) == 1
    event_log.remove_files(tmp_path / "continuous_eval")
    assert not read_values(tmp_path / "continuous_eval")
