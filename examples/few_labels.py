"""Data sets of few labelled images and many others, as TFRecords."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainers.data.image_dataset import Split
from trainers.data.records import CLASSES_FILES
from trainers.data.records import IMAGE_KEY
from trainers.data.records import LABEL_KEY
from trainers.data.records import NAME_KEY
from trainers.data.records import serialize_example
from trainers.files import replacing
from trainers.program import UserError
from trainers.pseudo_labels.label_records import FIRST_LABEL

_IMAGES_PER_FILE = 5000


class Part(NamedTuple):
    """Images and, but for what they are to be taken for, their labels.

    Attributes:
        images: list of PNG files' contents.
        labels: int, `(images,)`, from 0.
    """

    images: list[bytes]
    labels: np.ndarray


def read_part(split: Split) -> Part:
    """Reads a split of gray images into memory."""
    images, labels = [], []
    for image, label in split.examples:
        images.append(tf.io.encode_png(split.load(image)).numpy())
        labels.append(int(label))
    return Part(images, np.array(labels))


def choose_labelled(
    labels: np.ndarray, per_class: int, seed: int
) -> np.ndarray:
    """Chooses the images whose labels are told, as many of each class.

    Args:
        labels: int, `(images,)`.
        per_class: number of each class.
        seed: decides which.

    Returns:
        Their positions, rising.

    Raises:
        UserError: If a class has too few, or no image would be left.
    """
    least = np.bincount(labels).min()
    if per_class >= least:
        raise UserError(
            "--labelled_per_class must leave some images without a label, so "
            f"be below {least}. Received: {per_class}"
        )
    generator = np.random.default_rng(seed)
    return np.sort(
        np.concatenate(
            [
                generator.choice(
                    np.flatnonzero(labels == label), per_class, replace=False
                )
                for label in np.unique(labels)
            ]
        )
    )


def write_part(
    part: Part, positions: np.ndarray, folder: pathlib.Path, name: str
) -> None:
    """Writes images as TFRecords, with labels unless they are unlabelled.

    Their names are their positions.

    Args:
        part: the images.
        positions: of those to write.
        folder: existing folder.
        name: `"train"`, `"validation"` or `"unlabelled"`.
    """
    count = -(-len(positions) // _IMAGES_PER_FILE)
    for number, chosen in enumerate(np.array_split(positions, count)):
        path = folder / f"{name}-{number:05}-of-{count:05}"
        with (
            replacing(path) as temporary,
            tf.io.TFRecordWriter(str(temporary)) as writer,
        ):
            for position in chosen:
                values = {
                    IMAGE_KEY: part.images[position],
                    NAME_KEY: str(position).encode(),
                }
                if name != "unlabelled":
                    values[LABEL_KEY] = part.labels[position] + FIRST_LABEL
                writer.write(serialize_example(values))


def write_records(
    train: Part,
    validation: Part,
    class_names: Sequence[str],
    labelled: np.ndarray,
    folder: pathlib.Path,
) -> None:
    """Writes what a seed trains on.

    Args:
        train: images to train on.
        validation: those held out.
        class_names: in the order of the labels.
        labelled: positions in `train` of those whose labels are told.
        folder: where folders labelled, unlabelled and all are made.
    """
    every = np.arange(len(train.labels))
    for name, positions in (("labelled", labelled), ("all", every)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / CLASSES_FILES[0]).write_text(
            "".join(f"{class_name}\n" for class_name in class_names)
        )
        write_part(train, positions, folder / name, "train")
        held_out = np.arange(len(validation.labels))
        write_part(validation, held_out, folder / name, "validation")
    (folder / "unlabelled").mkdir(exist_ok=True)
    rest = np.setdiff1d(every, labelled)
    write_part(train, rest, folder / "unlabelled", "unlabelled")
