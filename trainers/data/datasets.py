"""Image data sets: scanned digits, TensorFlow Datasets and folders of images.

Opening one reads names and sizes; images are read when they are trained on.
"""

import dataclasses
import difflib
import functools
import os
import pathlib
from collections.abc import Callable

import keras
import numpy as np
import sklearn.datasets
import sklearn.model_selection
import tensorflow as tf
import tensorflow_datasets as tfds

from trainers.data.preprocessing import decode_image
from trainers.program import UserError

_IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
_VALIDATION_SHARE = 0.2
# Which examples are held out does not change from run to run.
_SPLIT_SEED = 0
# Undecoded examples in memory; at ImageNet's size about 1 GiB.
_LARGEST_SHUFFLE_BUFFER = 10_000
# Checking fewer files takes no time worth a progress bar.
_MANY_FILES = 1_000


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples of a data set in a fixed order.

    Attributes:
        examples: dataset of pairs of a stored image and its class, an int64.
        size: int. Number of examples.
        shuffle_buffer: int. Number of examples among which to shuffle.
        load: function from a stored image to uint8 `(height, width,
            channels)`.
    """

    examples: tf.data.Dataset
    size: int
    shuffle_buffer: int
    load: Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """What is known of a data set before its images are read.

    Attributes:
        class_names: list of str.
        channels: 1 for grayscale or 3 for colors.
        train: `Split` to train on.
        validation: `Split` to choose the best epoch by, and to evaluate on.
        files: list of str. The image files of a folder, otherwise empty.
    """

    class_names: list[str]
    channels: int
    train: Split
    validation: Split
    files: list[str] = dataclasses.field(default_factory=list)


def open_dataset(name: str, data_dir: str | None = None) -> ImageDataset:
    """Opens a data set.

    Args:
        name: `"digits"` for the 1797 scans of scikit-learn; a folder with
            a folder of images for each class, or with such folders for
            `train` and `validation`; or a name in TensorFlow Datasets.
        data_dir: where TensorFlow Datasets keeps its data. Defaults to its
            own default.

    Returns:
        An `ImageDataset`. Where the source has no validation split, its test
        split stands in, or else a fifth of each class.

    Raises:
        UserError: If there is no such data set, or nothing in it to train on.
    """
    if name == "digits":
        return _open_digits()
    if os.path.isdir(name):
        return _open_folder(pathlib.Path(name))
    return _open_tfds(name, data_dir)


def check_files(dataset: ImageDataset) -> None:
    """Decodes each file of a folder once, before hours of training.

    Raises:
        UserError: If a file is no image.
    """
    files = dataset.files
    decoded = tf.data.Dataset.from_tensor_slices(files).map(
        lambda path: tf.shape(dataset.train.load(path)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    iterator = iter(decoded)
    progress = keras.utils.Progbar(
        len(files), verbose=int(len(files) >= _MANY_FILES), unit_name="file"
    )
    for path in files:
        try:
            next(iterator)
        except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError):
            raise UserError(
                f"{path} is damaged or no image; mend it or remove it."
            ) from None
        progress.add(1)


def _open_digits():
    digits = sklearn.datasets.load_digits()
    # 17 levels of gray, spread over those of a byte.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = images[..., np.newaxis]
    split = functools.partial(_make_split, load=tf.identity)
    train, validation = _hold_out(images, digits.target)
    return ImageDataset(
        class_names=[str(name) for name in digits.target_names],
        channels=1,
        train=split(*train),
        validation=split(*validation),
    )


def _open_folder(root):
    if (root / "train").is_dir():
        class_names = _list_folders(root / "train")
        train = _list_images(root / "train", class_names)
        validation = _list_images(_find_held_out(root), class_names)
    else:
        class_names = _list_folders(root)
        train, validation = _hold_out(*_list_images(root, class_names))
    split = functools.partial(_make_split, load=_read_image)
    return ImageDataset(
        class_names=class_names,
        channels=3,
        train=split(*train),
        validation=split(*validation),
        files=[*train[0], *validation[0]],
    )


def _open_tfds(name, data_dir):
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise UserError(_describe_unknown(name)) from error
    if not builder.is_prepared():
        raise UserError(
            f"{name} is not in {builder.data_path.parent}; prepare it with "
            f"`tfds build {name} --data_dir={builder.data_dir_root}`, or say "
            "with --data_dir where it is."
        )
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise UserError(
            f"{name} is not for image classification: it has no image and "
            f"label. Received: {', '.join(features)}"
        )
    splits = builder.info.splits
    held_out = "validation" if "validation" in splits else "test"
    if not {"train", held_out} <= set(splits):
        raise UserError(
            f"{name} must have a split named train, and one named validation "
            f"or test. Received: {', '.join(splits)}"
        )
    channels = 1 if features["image"].shape[-1] == 1 else 3
    return ImageDataset(
        class_names=features["label"].names,
        channels=channels,
        train=_read_tfds(builder, "train", channels),
        validation=_read_tfds(builder, held_out, channels),
    )


def _read_tfds(builder, split, channels):
    examples = builder.as_dataset(
        split=split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    size = builder.info.splits[split].num_examples
    return Split(
        examples.map(lambda example: (example["image"], example["label"])),
        size=size,
        shuffle_buffer=min(size, _LARGEST_SHUFFLE_BUFFER),
        load=functools.partial(decode_image, channels=channels),
    )


def _describe_unknown(name):
    known = ["digits", *tfds.list_builders(with_community_datasets=False)]
    matches = difflib.get_close_matches(name, known)
    hint = f" Did you mean {' or '.join(matches)}?" if matches else ""
    return (
        "--dataset must be digits, a folder of images or a name in TensorFlow "
        f"Datasets.{hint} Received: {name}"
    )


def _make_split(stored_images, labels, *, load):
    return Split(
        tf.data.Dataset.from_tensor_slices(
            (stored_images, np.asarray(labels, np.int64))
        ),
        size=len(labels),
        shuffle_buffer=len(labels),
        load=load,
    )


def _hold_out(images, labels):
    """Returns (images, labels) to train on, and a fifth of each class."""
    try:
        train_images, images, train_labels, labels = (
            sklearn.model_selection.train_test_split(
                images,
                labels,
                test_size=_VALIDATION_SHARE,
                random_state=_SPLIT_SEED,
                stratify=labels,
            )
        )
    except ValueError as error:
        raise UserError(
            "There are too few images to hold out a fifth of each class; "
            "five in each class are enough. "
            f"Received: {len(labels)} images"
        ) from error
    return (train_images, train_labels), (images, labels)


def _read_image(path):
    return decode_image(tf.io.read_file(path), channels=3)


def _list_folders(root):
    names = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if len(names) < 2:
        raise UserError(
            f"{root} must hold at least two folders of images, one for each "
            f"class. Received: {', '.join(names) or 'none'}"
        )
    return names


def _list_images(root, class_names):
    paths = []
    labels = []
    for label, class_name in enumerate(class_names):
        folder = root / class_name
        found = sorted(
            str(path)
            for path in folder.glob("*")
            if path.suffix.lower() in _IMAGE_SUFFIXES
        )
        if not found:
            raise UserError(
                f"{folder} must hold images that end in "
                f"{', '.join(_IMAGE_SUFFIXES)}. Received: none"
            )
        paths += found
        labels += [label] * len(found)
    return paths, labels


def _find_held_out(root):
    for name in ("validation", "val", "test"):
        if (root / name).is_dir():
            return root / name
    raise UserError(
        f"{root} has a folder named train, so it must have one named "
        "validation, val or test besides."
    )
