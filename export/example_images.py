"""Images to quantize a classifier with, and to compare its exports on."""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from export.image_files import IMAGE_SUFFIXES
from export.preprocessing import decode_image
from export.trained_classifier import Classifier
from trainers import settings
from trainers.data import datasets
from trainers.data.image_dataset import ImageDataset
from trainers.data.image_dataset import Split
from trainers.program import UserError

# More do not change the ranges of activations much.
_NUM_REPRESENTATIVE = 100
_NUM_HELD_OUT = 500


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images that exports are compared on.

    Attributes:
        source: what they are, for the report.
        images: uint8, `(height, width, channels)` of any size.
        labels: `(examples,)`, the true classes; `None` if not known.
    """

    source: str
    images: list[np.ndarray]
    labels: np.ndarray | None = None


def read_images(
    model_path: pathlib.Path,
    classifier: Classifier,
    *,
    representative_images: str | None = None,
    verify_images: str | None = None,
) -> tuple[list[np.ndarray], Examples | None]:
    """Reads images from folders, or from the data of the model's run.

    Args:
        model_path: the model, beside whose flags.json the data are looked for.
        classifier: the model and its classes.
        representative_images: folder of images such as it will see. Training
            images without it.
        verify_images: folder of images to compare on. Held-out images without
            it.

    Returns:
        Representative images and what to compare on, as for
        `exporter.export_classifier`; none and `None` if nothing is known.

    Raises:
        UserError: If a folder holds none, or one that cannot be decoded.
    """
    representative, examples = [], None
    channels = classifier.channels
    if representative_images:
        representative = read_folder(
            representative_images, channels, "representative_images"
        )
    if verify_images:
        images = read_folder(verify_images, channels, "verify_images")
        examples = Examples(f"{len(images)} images in {verify_images}", images)
    if representative and examples:
        return representative, examples
    try:
        opened = open_training_data(model_path)
    except UserError as error:
        # A run may be exported where its data are not.
        print(f"The data of the run cannot be opened. {error}")
        return representative, examples
    if opened is None:
        return representative, examples
    dataset, name = opened
    if (
        list(dataset.class_names) != classifier.class_names
        or dataset.channels != channels
    ):
        print(f"{name} has other classes or channels now, and is not used.")
        return representative, examples
    return (
        representative or take_representative(dataset),
        examples or take_held_out(dataset, name),
    )


def open_training_data(
    model_path: pathlib.Path,
) -> tuple[ImageDataset, str] | None:
    """Opens the data set that a model was trained on.

    Args:
        model_path: the model; flags.json beside it says which data set it is.

    Returns:
        The data set and its name; `None` without flags.json.

    Raises:
        UserError: If the data set cannot be opened.
    """
    saved = settings.read_saved(model_path.parent)
    if not saved:
        return None
    run = settings.make_run(saved)
    dataset = datasets.open_dataset(
        run.dataset,
        run.data_dir,
        channels=run.channels,
        first_label=run.first_label,
    )
    return dataset, run.dataset


def take_representative(dataset: ImageDataset) -> list[np.ndarray]:
    """Returns training images, from all over where that is soon done.

    Returns:
        uint8, `(height, width, channels)` of any size.
    """
    return [image for image, _ in _read(dataset.train, _NUM_REPRESENTATIVE)]


def take_held_out(dataset: ImageDataset, name: str) -> Examples:
    """Returns images of the validation split, with labels.

    Args:
        dataset: the data set.
        name: of the data set.
    """
    images, labels = zip(*_read(dataset.validation, _NUM_HELD_OUT), strict=True)
    source = f"{len(images)} images held out of {name}"
    return Examples(source, list(images), np.array(labels))


def read_folder(
    folder: str, channels: int, flag: str, most: int = _NUM_HELD_OUT
) -> list[np.ndarray]:
    """Reads the images in a folder and the folders in it.

    Args:
        folder: the folder.
        channels: 1 for grayscale or 3 for colors.
        flag: name of the flag that the folder was given with.
        most: of more images, as many from all over them.

    Returns:
        uint8, `(height, width, channels)` of any size.

    Raises:
        UserError: If it holds none, or one that cannot be decoded.
    """
    paths = sorted(
        path
        for path in pathlib.Path(folder).rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
    )
    if not paths:
        raise UserError(
            f"--{flag} must be a folder of PNG, JPEG, BMP, GIF or WebP images. "
            f"Received: {folder}"
        )
    return [
        _decode_file(path, channels, flag)
        for path in paths[:: -(-len(paths) // most)]
    ]


def make_examples(image_size: int, channels: int) -> np.ndarray:
    """Makes images that look unlike each other to a network.

    Args:
        image_size: the network's input size. The images are larger and not
            square, so that cropping and resizing are tested too.
        channels: number of channels.

    Returns:
        uint8, `(16, height, width, channels)`: noise, then smooth patterns.
    """
    random = np.random.default_rng(0)
    height, width = image_size * 5 // 4 + 1, image_size * 3 // 2 + 1
    noise = random.integers(0, 256, (8, height, width, channels))
    coarse = random.uniform(-64, 320, (8, 4, 4, channels))
    smooth = tf.image.resize(coarse, (height, width), method="bicubic")
    return np.concatenate([noise, np.clip(smooth, 0, 255)]).astype("uint8")


def _read(split: Split, most: int) -> Iterator[tuple[np.ndarray, int]]:
    # Folders are sorted by class. What does not fit the shuffle buffer was
    # shuffled when it was written, and is too long to be read to its end.
    is_short = split.size <= split.shuffle_buffer
    stride = -(-split.size // most) if is_short else 1
    for stored, label in split.examples.shard(stride, 0).take(most):
        try:
            yield split.load(stored).numpy(), int(label)
        # Those are left out of training too.
        except tf.errors.InvalidArgumentError:
            continue


def _decode_file(path, channels, flag):
    try:
        return decode_image(path.read_bytes(), channels)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--{flag} must be a folder of images that can be read and "
            f"decoded. Received: {path}"
        ) from error
