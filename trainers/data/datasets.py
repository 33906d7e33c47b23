"""Image data sets by their names.

Opening one reads names and sizes; images are read when they are trained on.
"""

import difflib
import functools
import importlib.util
import os
import pathlib

import numpy as np
import sklearn.datasets
import tensorflow as tf
import tensorflow_datasets as tfds

from trainers.data import fashion_mnist
from trainers.data import folders
from trainers.data import records
from trainers.data.decoding import decode_image
from trainers.data.image_dataset import LARGEST_SHUFFLE_BUFFER
from trainers.data.image_dataset import ImageDataset
from trainers.data.image_dataset import Split
from trainers.data.image_dataset import hold_out
from trainers.data.image_dataset import split_arrays
from trainers.program import UserError


def open_dataset(
    name: str,
    data_dir: str | None = None,
    *,
    channels: int | None = None,
    first_label: int = 1,
) -> ImageDataset:
    """Opens a data set.

    Args:
        name: `"digits"` for the 1797 scans of scikit-learn; `"fashion_mnist"`;
            a folder with a folder of images for each class, or with such
            folders for `train` and `validation`; a folder of TFRecords, or a
            pattern of their names; or a name in TensorFlow Datasets.
        data_dir: where TensorFlow Datasets keeps its data, or where the files
            of Fashion-MNIST are. Defaults to their own defaults.
        channels: 1 to read all images as grayscale, 3 to read them as colors.
            Without it digits and clothes are gray, files are read as colors,
            and TensorFlow Datasets says itself.
        first_label: number of the first class in TFRecords.

    Returns:
        An `ImageDataset`. Where the source has no validation split, its test
        split stands in, or else a fifth of each class.

    Raises:
        UserError: If there is no such data set, or nothing in it to train on.
    """
    if name == "digits":
        return _open_digits(channels or 1)
    if name == "fashion_mnist":
        return _open_fashion_mnist(data_dir, channels)
    if records.are_records(name):
        return records.open_records(
            name, channels=channels or 3, first_label=first_label
        )
    if os.path.isdir(name):
        return folders.open_folder(pathlib.Path(name), channels or 3)
    return _open_tfds(name, data_dir, channels)


def _open_digits(channels):
    digits = sklearn.datasets.load_digits()
    # 17 levels of gray, spread over those of a byte.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    train, validation = hold_out(images[..., np.newaxis], digits.target)
    return ImageDataset(
        class_names=[str(name) for name in digits.target_names],
        channels=channels,
        train=split_arrays(*train, channels=channels),
        validation=split_arrays(*validation, channels=channels),
    )


def _open_fashion_mnist(data_dir, channels):
    folder = fashion_mnist.find_folder(data_dir)
    if folder:
        return fashion_mnist.read_folder(folder, channels or 1)
    if not tfds.builder("fashion_mnist", data_dir=data_dir).is_prepared():
        raise UserError(fashion_mnist.HOW_TO_GET_IT)
    return _open_tfds("fashion_mnist", data_dir, channels)


def _open_tfds(name, data_dir, channels):
    builder = _find_builder(name, data_dir)
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise UserError(
            f"{name} is not for image classification: it has no image and "
            f"label. Received: {', '.join(features)}"
        )
    if not builder.is_prepared():
        raise UserError(
            f"{name} is not in {builder.data_path.parent}; prepare it with "
            f"`tfds build {name} --data_dir={builder.data_dir_root}`, or say "
            "with --data_dir where it is."
        )
    splits = builder.info.splits
    held_out = "validation" if "validation" in splits else "test"
    if not {"train", held_out} <= set(splits):
        raise UserError(
            f"{name} must have a split named train, and one named validation "
            f"or test. Received: {', '.join(splits)}"
        )
    if channels is None:
        channels = 1 if features["image"].shape[-1] == 1 else 3
    return ImageDataset(
        class_names=features["label"].names,
        channels=channels,
        train=_read_tfds(builder, "train", channels),
        validation=_read_tfds(builder, held_out, channels),
    )


def _find_builder(name, data_dir):
    # TensorFlow Datasets would print a banner, and then raise.
    if name.startswith("huggingface:") and not importlib.util.find_spec(
        "datasets"
    ):
        raise UserError(
            "Data sets of Hugging Face need a package: `pip install "
            f"datasets`. Received: --dataset={name}"
        )
    try:
        return tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise UserError(_describe_unknown(name)) from error
    # An unknown version, a package that is missing, no network.
    except (AssertionError, ImportError, OSError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"TensorFlow Datasets cannot open it: {reason} "
            f"Received: --dataset={name}"
        ) from error


def _read_tfds(builder, split, channels):
    examples = builder.as_dataset(
        split=split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    size = builder.info.splits[split].num_examples
    return Split(
        examples.map(lambda example: (example["image"], example["label"])),
        size=size,
        shuffle_buffer=min(size, LARGEST_SHUFFLE_BUFFER),
        load=functools.partial(decode_image, channels=channels),
    )


def _describe_unknown(name):
    if records.is_pattern(name):
        return f"No TFRecords have such names. Received: --dataset={name}"
    known = ["digits", *tfds.list_builders(with_community_datasets=False)]
    matches = difflib.get_close_matches(name, known)
    hint = f" Did you mean {' or '.join(matches)}?" if matches else ""
    return (
        "--dataset must be digits, a folder of images or of TFRecords, or a "
        f"name in TensorFlow Datasets.{hint} Received: {name}"
    )
