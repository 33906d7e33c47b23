"""Folders of pseudo-labels, as training opens them."""

import json

import numpy as np
import pytest
import tensorflow as tf

from trainers.program import UserError
from trainers.pseudo_labels import label_records
from trainers.pseudo_labels.label_records import LabelledImage
from trainers.pseudo_labels.label_records import Teacher
from trainers.pseudo_labels.labelled_images import open_labelled
from trainers.pseudo_labels.labelled_images import spread_probabilities

CLASSES = ["cat", "dog", "eel", "fox"]
TEACHER = Teacher("f1", CLASSES, 2, "runs/t/export/saved_model")
# Images of each shard; one of them may be empty.
COUNTS = (3, 0, 4)


def make_image(number, **changes):
    """Returns an image of one level of gray, which says what its label is."""
    image = np.full((5, 7, 1), number, np.uint8)
    surest = number % 4
    values = {
        "contents": tf.io.encode_png(image).numpy(),
        "name": f"{number}.png",
        "classes": np.array([surest, (surest + 1) % 4]),
        "probabilities": np.float32([0.5 + number / 100, 0.25]),
        "fingerprint": TEACHER.fingerprint,
    }
    return LabelledImage(**{**values, **changes})


def write_shard(path, images, is_soft=True):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in images:
            writer.write(label_records.make_record(image, is_soft=is_soft))


def write_folder(folder, is_soft=True):
    (folder / "teacher.json").write_text(json.dumps(TEACHER._asdict()))
    begin = 0
    for number, count in enumerate(COUNTS):
        images = map(make_image, range(begin, begin + count))
        path = folder / f"selected-{number:05}-of-00003"
        write_shard(path, images, is_soft)
        begin += count


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path)
    return tmp_path


def open_folder(folder, channels=1):
    return open_labelled(str(folder), class_names=CLASSES, channels=channels)


def read_examples(examples, split):
    return {
        int(split.load(contents)[0, 0, 0]): label.numpy()
        for contents, label in examples
    }


def get_error(name):
    with pytest.raises(UserError) as error:
        open_folder(name)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("pattern", ["", "/selected-*"])
def test_probabilities_give_soft_labels(folder, pattern):
    split = open_folder(f"{folder}{pattern}")
    assert split.size == 7
    labels = read_examples(split.examples, split)
    assert list(labels) == list(range(7))
    for number, label in labels.items():
        # What is missing to 1, halved.
        rest = (0.25 - number / 100) / 2
        expected = np.roll([0.5 + number / 100, 0.25, rest, rest], number)
        np.testing.assert_allclose(label, expected, atol=1e-6)
        assert label.dtype == np.float32
    reordered = split.reorder(tf.constant([1, 2]))
    assert sorted(read_examples(reordered, split)) == list(range(7))


def test_records_without_probabilities_give_hard_labels(tmp_path):
    write_folder(tmp_path, is_soft=False)
    split = open_folder(tmp_path, channels=3)
    labels = read_examples(split.examples, split)
    assert labels == {number: number % 4 for number in range(7)}
    assert split.examples.element_spec[1].dtype == tf.int64
    (contents, _) = next(iter(split.examples))
    assert split.load(contents).shape == (5, 7, 3)


def test_labels_are_read_through_the_file_systems_of_tensorflow(folder):
    for path in folder.iterdir():
        tf.io.gfile.copy(str(path), f"ram://pseudo/{path.name}", overwrite=True)
    split = open_folder("ram://pseudo")
    assert list(read_examples(split.examples, split)) == list(range(7))


@pytest.mark.parametrize(
    ("classes", "probabilities", "expected"),
    [
        ([2], [0.7], [0.1, 0.1, 0.7, 0.1]),
        ([3, 0, 1, 2], [0.4, 0.3, 0.2, 0.1], [0.3, 0.2, 0.1, 0.4]),
        # Rounded, of half precision.
        ([1, 3], [0.603, 0.402], [0, 0.6, 0, 0.4]),
        ([0, 2, 1, 3], [0.5, 0.495, 0, 0], [0.50251, 0, 0.49749, 0]),
    ],
)
def test_what_is_missing_is_spread_over_the_others(
    classes, probabilities, expected
):
    label = spread_probabilities(
        tf.constant(classes, tf.int64), tf.constant(probabilities), 4
    ).numpy()
    np.testing.assert_allclose(label, expected, atol=1e-5)
    np.testing.assert_allclose(label.sum(), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "received"),
    [
        (["cat", "eel", "dog", "fox"], "class 1 is 'dog' in {}, and 'eel' in"),
        (CLASSES[:3], "class 3 is 'fox' in {}, and not there in the data"),
        ([*CLASSES, "gnu"], "class 4 is not there in {}, and 'gnu' in the"),
    ],
)
def test_first_class_that_is_another_is_named(folder, names, received):
    with pytest.raises(UserError) as error:
        open_labelled(str(folder), class_names=names, channels=1)
    assert received.format(folder / "teacher.json") in str(error.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"probabilities": np.float32([np.nan, 0.25])},
            "has a probability that is no number",
        ),
        (
            {"probabilities": np.float32([0.9, 0.25])},
            "must have probabilities with the sum 0.5 to 1, but has 1.15",
        ),
        ({"classes": np.array([4, 0])}, "must have different classes from 0"),
        ({"fingerprint": "f2"}, "is of another teacher"),
        ({"contents": b""}, "has no image/encoded"),
    ],
    ids=["nan", "sum", "class", "teacher", "empty"],
)
def test_wrong_soft_label_is_named(folder, changes, reason):
    path = folder / "selected-00002-of-00003"
    write_shard(path, [make_image(0), make_image(1, **changes)])
    message = get_error(folder)
    assert message.startswith(f"Record 1 of {path} {reason}")


@pytest.mark.parametrize(
    ("image", "is_soft", "reason"),
    [
        (make_image(1), True, "has probabilities, which the first one has not"),
        (make_image(1, fingerprint="f2"), False, "is of another teacher"),
        (make_image(1, contents=b""), False, "has no image/encoded"),
        (
            make_image(1, classes=np.array([4])),
            False,
            "must have one label from 1 to 4, but has [5]",
        ),
    ],
    ids=["soft", "teacher", "empty", "class"],
)
def test_wrong_hard_label_is_named(tmp_path, image, is_soft, reason):
    write_folder(tmp_path, is_soft=False)
    path = tmp_path / "selected-00002-of-00003"
    write_shard(path, [image], is_soft)
    assert get_error(tmp_path).startswith(f"Record 0 of {path} {reason}")


@pytest.mark.parametrize("is_soft", [True, False])
def test_file_that_is_cut_off_is_named(tmp_path, is_soft):
    write_folder(tmp_path, is_soft)
    path = tmp_path / "selected-00002-of-00003"
    path.write_bytes(path.read_bytes()[:-5])
    assert f"{path} is damaged or cut off at record 3" in get_error(tmp_path)


@pytest.mark.parametrize("is_soft", [True, False])
def test_record_that_is_no_example_is_named(tmp_path, is_soft):
    write_folder(tmp_path, is_soft)
    path = tmp_path / "selected-00000-of-00003"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"\xff")
    expected = f"Record 0 of {path} is no tf.train.Example"
    assert get_error(tmp_path).startswith(expected)


def test_folder_that_is_still_written_is_refused(folder):
    path = folder / "selected-00001-of-00003"
    path.rename(folder / f"partial-{path.name}")
    message = get_error(folder)
    assert "all 3 files; let the program that writes them end" in message
    # Of a pattern, they may be some.
    assert open_folder(f"{folder}/selected-*").size == 7


def test_folder_without_labels_is_one_line(folder):
    for path in folder.glob("selected-*"):
        write_shard(path, [])
    assert get_error(folder).endswith(f"Received: none in {folder}")
    (folder / "teacher.json").unlink()
    assert "with teacher.json beside them" in get_error(folder)
    for path in folder.glob("selected-*"):
        path.unlink()
    assert get_error(folder).endswith(f"Received: --pseudo_labels={folder}")


def test_labels_that_are_nowhere_are_one_line():
    message = get_error("nowhere://labels/*")
    assert message.endswith("Received: --pseudo_labels=nowhere://labels/*")
