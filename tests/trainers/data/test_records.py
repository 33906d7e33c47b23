"""TFRecords whose images are their labels and numbers."""

import os

import numpy as np
import pytest
import tensorflow as tf

from trainers.data import decoding
from trainers.data import records
from trainers.data.checking import drop_bad_images
from trainers.data.datasets import open_dataset
from trainers.data.input_pipeline import make_training_batches
from trainers.program import UserError

# Examples in each file, all different.
TRAIN_COUNTS = (5, 2, 7, 3)


def make_example(contents, label):
    feature = {
        records.IMAGE_KEY: tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[contents])
        ),
        records.LABEL_KEY: tf.train.Feature(
            int64_list=tf.train.Int64List(value=[label])
        ),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature))


def write_records(path, levels, first_label=1):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for level in levels:
            image = np.full((11, 7, 3), level, np.uint8)
            contents = tf.io.encode_png(image).numpy()
            example = make_example(contents, level % 3 + first_label)
            writer.write(example.SerializeToString())


def write_folder(folder, first_label=1):
    """Writes images of the levels 0 to 16, and 20 to 24 held out."""
    ends = np.cumsum(TRAIN_COUNTS)
    for number, (end, count) in enumerate(zip(ends, TRAIN_COUNTS, strict=True)):
        name = f"{folder}/train-{number:05}-of-00004"
        write_records(name, range(end - count, end), first_label)
    name = f"{folder}/validation-00000-of-00001"
    write_records(name, range(20, 25), first_label)


def read_levels(split):
    levels = []
    for contents, label in split.examples:
        level = int(split.load(contents)[0, 0, 0])
        assert level % 3 == label
        levels.append(level)
    return levels


def read_epochs(split, **changes):
    """Returns the levels of the images in the order of training."""
    arguments = {"seed": 0, "epochs": 3, **changes}
    batches = make_training_batches(
        split,
        num_classes=3,
        image_size=7,
        batch_size=2,
        augment=lambda image, size, key: tf.cast(image[:size], tf.float32),
        **arguments,
    )
    images = np.concatenate([images for images, _ in batches])
    return images[:, 0, 0, 0].astype(int).tolist()


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path)
    return tmp_path


@pytest.mark.parametrize("pattern", ["", "/*-of-*"])
def test_records_give_images_with_their_labels(folder, pattern):
    (folder / "labels.txt").write_text("zero\none\ntwo\n")
    dataset = open_dataset(f"{folder}{pattern}")
    assert dataset.class_names == ["zero", "one", "two"]
    assert (dataset.train.size, dataset.validation.size) == (17, 5)
    assert read_levels(dataset.train) == list(range(17))
    assert read_levels(dataset.validation) == list(range(20, 25))


def test_records_are_read_through_the_file_systems_of_tensorflow():
    tf.io.gfile.makedirs("ram://records")
    write_folder("ram://records", first_label=0)
    dataset = open_dataset("ram://records/*", first_label=0)
    assert dataset.class_names == ["0", "1", "2"]
    assert read_levels(dataset.train) == list(range(17))


def test_records_held_out_are_every_fifth(tmp_path):
    write_records(tmp_path / "0.tfrecord", range(7))
    write_records(tmp_path / "1.tfrecord", range(7, 13))
    dataset = open_dataset(str(tmp_path))
    assert read_levels(dataset.validation) == [4, 9]
    assert read_levels(dataset.train) == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12]
    assert (dataset.train.size, dataset.validation.size) == (11, 2)


def test_order_of_records_depends_on_seed_and_epoch_alone(folder, monkeypatch):
    # So few that the order of the files matters.
    monkeypatch.setattr(records, "LARGEST_SHUFFLE_BUFFER", 2)
    monkeypatch.setattr(records, "_FILES_AT_ONCE", 2)
    split = open_dataset(str(folder)).train
    levels = read_epochs(split)
    assert levels == read_epochs(open_dataset(str(folder)).train)
    assert levels[32:] == read_epochs(split, initial_epoch=2)
    assert levels != read_epochs(split, seed=1)
    for epoch in np.reshape(levels, (3, 16)):
        assert len(set(epoch)) == 16
    # A file that is last comes first in another epoch.
    firsts = {level for epoch in range(3) for level in levels[16 * epoch :][:2]}
    assert max(firsts) > 6
    assert levels[:16] != levels[16:32]


def test_bad_records_are_left_out_and_named(folder):
    path = folder / "train-00001-of-00004"
    (first, _) = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(first)
        writer.write(make_example(b"no image", 3).SerializeToString())
    dataset = open_dataset(str(folder))
    with pytest.raises(UserError, match=f"Record 1 of {path} is no PNG"):
        drop_bad_images(dataset)
    dataset, lines = drop_bad_images(dataset, 1)
    assert len(lines) == 1
    rest = [*range(6), *range(7, 17)]
    assert read_levels(dataset.train) == rest
    assert dataset.train.size == 16
    assert sorted(read_epochs(dataset.train, epochs=1)) == rest


@pytest.mark.parametrize(
    ("first_label", "names", "received"),
    [
        (2, None, "1 to 3"),
        (0, "zero\none\ntwo", "1 to 3"),
        (1, "zero\none", "1 to 3"),
    ],
    ids=["begins_later", "begins_earlier", "too_few_names"],
)
def test_labels_without_a_class_are_refused(
    folder, first_label, names, received
):
    if names:
        (folder / "classes.txt").write_text(names)
    with pytest.raises(UserError, match=f"Received: {received}"):
        open_dataset(str(folder), first_label=first_label)


@pytest.mark.parametrize("damage", ["bit", "text", "keys"])
def test_damaged_file_of_records_is_named(folder, damage):
    path = folder / "train-00002-of-00004"
    contents = bytearray(path.read_bytes())
    contents[70] ^= 1
    if damage == "text":
        contents = b"nothing of the kind"
    path.write_bytes(contents)
    if damage == "keys":
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(tf.train.Example().SerializeToString())
    with pytest.raises(UserError, match="train-00002") as error:
        open_dataset(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["nowhere/*.tfrecord", "nowhere://records/train-*"]
)
def test_records_that_are_nowhere_are_one_line(name):
    with pytest.raises(UserError, match="Received: --dataset=") as error:
        open_dataset(name)
    assert "\n" not in str(error.value)


def test_other_files_beside_those_for_training_are_refused(folder):
    write_records(folder / "more.tfrecord", range(3))
    with pytest.raises(UserError, match=r"more\.tfrecord"):
        open_dataset(str(folder))


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_bears_the_name_of_records_must_be_a_file(kind, tmp_path):
    path = tmp_path / "train-00000-of-00001"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(UserError, match="of-00001 is a folder or a pipe"):
        open_dataset(str(tmp_path))


def test_link_to_no_records_is_one_line(tmp_path):
    path = tmp_path / "train-00000-of-00001"
    path.symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError) as error:
        open_dataset(str(tmp_path))
    assert str(error.value) == (
        f"{path} cannot be read: No such file or directory"
    )


def test_records_without_examples_are_one_line(tmp_path):
    write_records(tmp_path / "train-00000-of-00001", [])
    with pytest.raises(UserError, match="hold no examples"):
        open_dataset(str(tmp_path))


def test_record_of_too_many_pixels_is_bad(folder, limit_pixels):
    limit_pixels(11 * 7 - 1)
    with pytest.raises(UserError, match=decoding.TOO_LARGE) as error:
        drop_bad_images(open_dataset(str(folder)))
    assert str(error.value).startswith(f"Record 0 of {folder}/train-00000")
