import numpy as np
import pytest
import tensorflow as tf
from official.vision.dataloaders import tf_example_decoder

from trainers.detection import records
from trainers.detection import shapes
from trainers.program import UserError

DRAWINGS = [shapes.draw_shapes(seed, 48, 64) for seed in range(5)]


def write(prefix, examples, num_shards=1):
    return records.write_records(examples, str(prefix), num_shards)


@pytest.fixture
def examples():
    return [
        records.make_example(drawing, number)
        for number, drawing in enumerate(DRAWINGS)
    ]


def test_models_read_what_was_written(examples, tmp_path):
    paths = write(tmp_path / "new" / "train", examples, 2)
    assert paths == [
        f"{tmp_path}/new/train-0000{n}-of-00002.tfrecord" for n in (0, 1)
    ]
    assert len(list((tmp_path / "new").iterdir())) == 2
    decode = tf_example_decoder.TfExampleDecoder(include_mask=True).decode
    found = {}
    for record in tf.data.TFRecordDataset(paths):
        example = decode(record)
        found[int(example["source_id"])] = example
    assert sorted(found) == [0, 1, 2, 3, 4]
    for number, drawing in enumerate(DRAWINGS):
        example = found[number]
        np.testing.assert_array_equal(example["image"], drawing.image)
        np.testing.assert_array_equal(
            example["groundtruth_instance_masks"], drawing.masks
        )
        np.testing.assert_allclose(
            example["groundtruth_boxes"] * (48.0, 64.0, 48.0, 64.0),
            drawing.boxes,
            atol=1e-4,
        )
        np.testing.assert_array_equal(
            example["groundtruth_classes"], drawing.classes
        )
        np.testing.assert_array_equal(
            example["groundtruth_area"], drawing.masks.sum(axis=(1, 2))
        )


def test_an_error_leaves_no_files(examples, tmp_path):
    def fail():
        yield examples[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "train", fail())
    assert not list(tmp_path.iterdir())


def test_examples_are_counted(examples, tmp_path, monkeypatch):
    write(tmp_path / "train", examples, 3)
    pattern = f"{tmp_path}/train-*"
    assert records.check_records(pattern, num_classes=4) == 5
    monkeypatch.setattr(records, "_MOST_CHECKED", 2)
    assert records.check_records(pattern) == 2


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("encoded", "no image/encoded"),
        ("source_id", "no image/source_id"),
        ("object/mask", "0 masks, 4 objects in image 0"),
        ("object/bbox/xmax", "4 classes, 0 boxes in image 0"),
    ],
)
def test_records_of_another_form_are_refused(key, message, examples, tmp_path):
    del examples[0].features.feature[f"image/{key}"]
    write(tmp_path / "train", examples)
    with pytest.raises(UserError, match=message):
        records.check_records(f"{tmp_path}/train-*")


def test_what_cannot_be_trained_on_is_refused(examples, tmp_path):
    def check(**arguments):
        records.check_records(f"{tmp_path}/train-*", **arguments)

    with pytest.raises(UserError, match=r"none at .*train-\*$"):
        check()
    write(tmp_path / "train", [])
    with pytest.raises(UserError, match="no examples"):
        check()
    [path] = write(tmp_path / "train", examples)
    with pytest.raises(UserError, match=r"from 1 to 2\. Received: [12] to 3"):
        check(num_classes=3)
    with open(path, "r+b") as file:
        file.truncate(file.seek(0, 2) - 9)
    with pytest.raises(UserError, match="must be whole"):
        check()
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(b"no example")
    with pytest.raises(UserError, match=r"tf\.train\.Example"):
        check()
    empty = shapes.Drawing(
        DRAWINGS[0].image,
        np.zeros((0, 4)),
        np.zeros(0, int),
        np.zeros((0, 48, 64), bool),
    )
    write(tmp_path / "train", [records.make_example(empty, 1)])
    with pytest.raises(UserError, match="1 images without any"):
        check()
    named = records.make_example(DRAWINGS[0], "street")
    write(tmp_path / "train", [named])
    with pytest.raises(UserError, match="must be a number"):
        check()
