"""Records of labelled images, and teacher.json."""

import json

import numpy as np
import pytest
import tensorflow as tf

from trainers.data import records
from trainers.program import UserError
from trainers.pseudo_labels import label_records

TEACHER = label_records.Teacher("0f3a", ["cat", "dog", "eel", "fox"], 2, "old")
IMAGE = label_records.LabelledImage(
    b"contents",
    "photos/\udcff.png",
    np.array([3, 1]),
    np.array([0.75, 0.1875], np.float32),
    "0f3a",
)


def test_record_holds_what_was_said():
    record = label_records.make_record(IMAGE)
    assert record == label_records.make_record(IMAGE)
    read = label_records.read_record(record, TEACHER)
    assert read.contents == IMAGE.contents
    assert read.name == IMAGE.name
    assert read.fingerprint == IMAGE.fingerprint
    np.testing.assert_array_equal(read.classes, IMAGE.classes)
    np.testing.assert_array_equal(read.probabilities, IMAGE.probabilities)


@pytest.mark.parametrize("is_soft", [True, False])
def test_record_is_one_of_a_data_set(tmp_path, is_soft):
    record = label_records.make_record(IMAGE, is_soft=is_soft)
    features = tf.train.Example.FromString(record).features.feature
    assert (label_records.PROBABILITIES_KEY in features) == is_soft
    assert (label_records.CLASSES_KEY in features) == is_soft
    with tf.io.TFRecordWriter(str(tmp_path / "a-00000-of-00001")) as writer:
        for _ in range(5):
            writer.write(record)
    dataset = records.open_records(str(tmp_path))
    assert next(dataset.train.examples.as_numpy_iterator()) == (b"contents", 3)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"contents": b""}, "has no image/encoded"),
        ({"fingerprint": "0f3b"}, "is of another teacher than teacher.json"),
        ({"classes": [3]}, "has 1 and 2"),
        ({"probabilities": [0.5, 0.3, 0.2]}, "has 2 and 3"),
        ({"probabilities": [np.nan, 0.1]}, "a probability that is no number"),
        ({"probabilities": [np.inf, 0.1]}, "a probability that is no number"),
        ({"classes": [3, 3]}, "must have different classes from 0 to 3"),
        ({"classes": [3, 4]}, "must have different classes from 0 to 3"),
        ({"classes": [3, -1]}, "must have different classes from 0 to 3"),
        ({"probabilities": [0.9, 0.2]}, "sum 0.5 to 1, but has 1.1"),
        ({"probabilities": [0.3, 0.1]}, "sum 0.5 to 1, but has 0.4"),
        ({"probabilities": [0.9, -0.1]}, "sum 0.5 to 1, but has 0.8"),
        ({"probabilities": [0.3, 0.6]}, "must have the surest class first"),
    ],
)
def test_record_that_cannot_be_is_refused(changes, wrong):
    record = label_records.make_record(IMAGE._replace(**changes))
    with pytest.raises(ValueError, match=wrong):
        label_records.read_record(record, TEACHER)


def test_all_probabilities_have_the_sum_one():
    teacher = TEACHER._replace(top_k=4)
    classes = np.array([2, 0, 1, 3])
    label_records.check_prediction(
        classes, np.array([0.4, 0.3, 0.2, 0.105]), teacher
    )
    for last, total in ((0.05, r"0\.95"), (0.15, r"1\.05")):
        with pytest.raises(ValueError, match=f"sum 1, but has {total}"):
            label_records.check_prediction(
                classes, np.array([0.4, 0.3, 0.2, last]), teacher
            )


def test_what_is_no_record_is_refused():
    with pytest.raises(ValueError, match=r"is no tf\.train\.Example"):
        label_records.read_record(b"no record", TEACHER)


def test_teacher_is_read_as_it_was_written(tmp_path):
    label_records.write_teacher(str(tmp_path), TEACHER)
    assert label_records.read_teacher(str(tmp_path)) == TEACHER


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ("[]", "must be a mapping"),
        (json.dumps({"fingerprint": "0f3a"}), "missing 3 required"),
        (json.dumps(TEACHER._replace(top_k=5)._asdict()), "top_k=5"),
        (json.dumps(TEACHER._replace(top_k=0)._asdict()), "top_k=0"),
        (json.dumps(TEACHER._replace(class_names="ab")._asdict()), "top_k=2"),
    ],
)
def test_damaged_teacher_is_refused(tmp_path, contents, reason):
    if contents is not None:
        (tmp_path / label_records.TEACHER_FILE).write_text(contents)
    with pytest.raises(UserError, match=reason) as raised:
        label_records.read_teacher(str(tmp_path))
    assert "\n" not in str(raised.value)
