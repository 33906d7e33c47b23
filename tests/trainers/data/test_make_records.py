"""A folder of images, as TFRecords and read back."""

import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests.support.programs import Program
from trainers.data.datasets import open_dataset
from trainers.program import UserError

PROGRAM = Program("trainers.data.make_records")
make_records = PROGRAM.module


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for name, count in (("cats", 11), ("dogs", 7)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (5, 3, 3), np.uint8)
            path = tmp_path / "photos" / name / f"{number}.png"
            PIL.Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def test_records_hold_the_files_of_a_folder(photos, tmp_path):
    PROGRAM.run(
        dataset=str(photos),
        output=str(tmp_path / "records"),
        images_per_file=4,
    )
    names = sorted(path.name for path in (tmp_path / "records").iterdir())
    assert names == [
        "labels.txt",
        "train-00000-of-00004",
        "train-00001-of-00004",
        "train-00002-of-00004",
        "train-00003-of-00004",
        "validation-00000-of-00001",
    ]
    folder = open_dataset(str(photos))
    dataset = open_dataset(str(tmp_path / "records"))
    assert dataset.class_names == ["cats", "dogs"]
    for split, expected in (
        (dataset.train, folder.train),
        (dataset.validation, folder.validation),
    ):
        examples = {
            (pathlib.Path(path.decode()).read_bytes(), label)
            for path, label in expected.examples.as_numpy_iterator()
        }
        assert set(split.examples.as_numpy_iterator()) == examples
        assert split.size == expected.size
    path = str(tmp_path / "records" / "train-00000-of-00004")
    labels = {
        tf.train.Example.FromString(record)
        .features.feature["image/class/text"]
        .bytes_list.value[0]
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator()
    }
    assert labels == {b"cats", b"dogs"}


def test_output_is_whole_or_not_there(photos, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device", "train")

    monkeypatch.setattr(make_records, "_make_record", fail)
    with pytest.raises(UserError, match="No space left"):
        make_records.make_records(photos, tmp_path / "records", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_output_that_exists_is_left_alone(photos, tmp_path):
    with pytest.raises(UserError, match="must not exist yet"):
        make_records.make_records(photos, photos, 4)
    assert photos.exists()
