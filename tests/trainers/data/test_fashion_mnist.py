"""Files in the format of MNIST whose pixels are known."""

import gzip

import numpy as np
import pytest
import tensorflow as tf

from trainers.data import fashion_mnist
from trainers.data.datasets import open_dataset
from trainers.program import UserError


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim])
    for length in values.shape:
        header += length.to_bytes(4, "big")
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture
def clothes(tmp_path):
    """Returns a folder of 13 and 5 images, and the images with labels."""
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 13), ("t10k", 5)):
        images = random.integers(0, 256, (count, 28, 23), np.uint8)
        labels = random.integers(0, 10, count, np.uint8)
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", labels)
        arrays[split] = (images, labels)
    return tmp_path, arrays


@pytest.mark.parametrize("channels", [1, 3])
def test_files_give_images_with_their_labels(clothes, channels):
    folder, arrays = clothes
    dataset = open_dataset("fashion_mnist", str(folder), channels=channels)
    assert dataset.class_names[9] == "Ankle boot"
    assert dataset.channels == channels
    for split, name in (
        (dataset.train, "train"),
        (dataset.validation, "t10k"),
    ):
        images, labels = zip(*split.examples.as_numpy_iterator(), strict=True)
        images = [split.load(tf.constant(image)) for image in images]
        expected, expected_labels = arrays[name]
        np.testing.assert_array_equal(
            images, np.repeat(expected[..., None], channels, axis=-1)
        )
        np.testing.assert_array_equal(labels, expected_labels)
        assert split.size == len(labels)


@pytest.mark.parametrize("damage", ["cut", "short", "no_idx", "label"])
def test_damaged_file_is_named(clothes, damage):
    folder, arrays = clothes
    path = folder / "t10k-labels-idx1-ubyte.gz"
    labels = arrays["t10k"][1]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "short":
        write_idx(path, labels[:-1])
    elif damage == "no_idx":
        path.write_bytes(gzip.compress(b"none"))
    else:
        write_idx(path, labels + np.uint8(10))
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte") as error:
        open_dataset("fashion_mnist", str(folder))
    assert "\n" not in str(error.value)


def test_missing_files_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_SYSTEM_FOLDER", tmp_path)
    with pytest.raises(UserError, match="apt-get install") as error:
        open_dataset("fashion_mnist", str(tmp_path))
    assert "tfds build fashion_mnist" in str(error.value)
