"""Images to quantize with and to compare on: which, and whence."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from export import example_images
from export.trained_classifier import Classifier
from trainers.data.datasets import open_dataset
from trainers.data.image_dataset import split_arrays
from trainers.program import UserError


def test_data_of_a_run_are_found_by_its_flags(tmp_path):
    (tmp_path / "flags.json").write_text(json.dumps({"dataset": "digits"}))
    dataset, name = example_images.open_training_data(tmp_path / "best.keras")
    assert name == "digits"
    images = example_images.take_representative(dataset)
    assert 50 < len(images) <= 100
    trained_on = {
        image.numpy().tobytes() for image, _ in dataset.train.examples
    }
    assert {image.tobytes() for image in images} <= trained_on


@pytest.mark.parametrize("is_same", [True, False])
def test_data_of_other_classes_are_not_used(is_same, tmp_path, capsys):
    (tmp_path / "flags.json").write_text(json.dumps({"dataset": "digits"}))
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    classes = open_dataset("digits").class_names[: None if is_same else 9]
    images, examples = example_images.read_images(
        tmp_path / "best.keras", Classifier(model, classes, 1.0)
    )
    said = "other classes" in capsys.readouterr().out
    assert said != is_same
    assert (len(images) > 0) == is_same
    assert (examples is not None) == is_same


def test_model_without_a_run_has_no_data(tmp_path):
    assert example_images.open_training_data(tmp_path / "best.keras") is None


def test_held_out_images_have_their_labels():
    dataset = open_dataset("digits")
    examples = example_images.take_held_out(dataset, "digits")
    assert examples.source == "360 images held out of digits"
    pairs = list(dataset.validation.examples.as_numpy_iterator())
    np.testing.assert_array_equal(
        examples.labels, [label for _, label in pairs]
    )
    np.testing.assert_array_equal(
        examples.images, [image for image, _ in pairs]
    )


def test_images_are_taken_from_all_over_a_split():
    images = np.arange(1001, dtype="uint8").reshape(-1, 1, 1, 1)
    split = split_arrays(images, np.arange(1001) // 10, channels=1)
    labels = [label for _, label in example_images._read(split, 100)]
    assert 90 <= len(labels) <= 100
    assert labels[-1] - labels[0] > 90


def test_folder_of_images_is_read_with_its_folders(tmp_path):
    (tmp_path / "inner").mkdir()
    for number, name in enumerate(["a.png", "inner/b.PNG"]):
        image = np.full((2, 3 + number, 3), number, "uint8")
        (tmp_path / name).write_bytes(tf.io.encode_png(image).numpy())
    (tmp_path / "notes.txt").touch()
    images = example_images.read_folder(tmp_path, 3, "verify_images")
    assert [image.shape for image in images] == [(2, 3, 3), (2, 4, 3)]
    assert [image.max() for image in images] == [0, 1]


@pytest.mark.parametrize("name", ["broken.png", "notes.txt"])
def test_folder_without_readable_images_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^--verify_images must be .*Received"):
        example_images.read_folder(tmp_path, 3, "verify_images")
