"""Has a teacher label images as training begins, in memory."""

import contextlib
import itertools
import os
import pathlib
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from trainers.data import records
from trainers.data.decoding import decode_image
from trainers.data.image_dataset import Split
from trainers.program import UserError
from trainers.pseudo_labels import label_records
from trainers.pseudo_labels import shards
from trainers.pseudo_labels.classes import check_classes
from trainers.pseudo_labels.unlabelled import UnlabelledImage
from trainers.pseudo_labels.unlabelled import classify_images
from trainers.pseudo_labels.unlabelled import rank_classes

# Each start labels them anew, and their labels are in memory.
MOST_IMAGES = 100_000
_BATCH_SIZE = 64


class TaughtSplit(NamedTuple):
    """What a teacher labelled.

    Attributes:
        split: the images, with the probabilities of all classes.
        bad_images: lines of a name and what is wrong with it, of those that
            are left out because they cannot be read.
    """

    split: Split
    bad_images: list[str]


def label_images(
    name: str,
    teacher: str,
    *,
    class_names: Sequence[str],
    channels: int,
    min_confidence: float = 0.0,
) -> TaughtSplit:
    """Labels images by a teacher, as they are.

    Args:
        name: folder or pattern of image files, which are local, or of
            TFRecords, which need no labels.
        teacher: SavedModel folder, .tflite or .onnx file of an export.
        class_names: of the data set that they are to be mixed with.
        channels: of the images to train on, as in `records.open_records`.
        min_confidence: the least probability of the surest class; images of
            which the teacher is less sure are left out.

    Raises:
        UserError: If there are no images or too many, the teacher is none or
            knows other classes, or no image is left.
    """
    paths = records.list_files(name, flag="pseudo_labels")
    if paths:
        counts = _count_records(paths)
        size, images = sum(counts), _read_records(paths)
    else:
        files = _list_files(name)
        size, images = len(files), _read_files(files)
    if size > MOST_IMAGES:
        raise UserError(
            f"--teacher labels {MOST_IMAGES:,} images at most, at each start "
            "and in memory; label them with export.label_images, and leave "
            f"--teacher out. Received: more in {name}"
        )
    classify = _open_teacher(teacher, class_names)
    is_wanted = np.zeros(size, bool)
    labels = []
    bad_images = []
    progress = tqdm(
        images,
        "Labels of the teacher",
        total=size,
        unit=" images",
        # Only where there are people to see it.
        disable=None,
    )
    labelled = classify_images(progress, classify, _BATCH_SIZE)
    for number, (image, probabilities) in enumerate(labelled):
        if image.error:
            bad_images.append(f"{image.name} {image.error}")
            continue
        try:
            rank_classes(probabilities, class_names)
        except ValueError as error:
            raise UserError(
                f"What --teacher says of {image.name} {error}. "
                f"Received: --teacher={teacher}"
            ) from error
        if probabilities.max() >= min_confidence:
            is_wanted[number] = True
            labels.append(probabilities / probabilities.sum())
    if not labels:
        raise UserError(
            "--teacher must be at least as sure as --pseudo_min_confidence of "
            f"an image. Received: --pseudo_min_confidence={min_confidence:g}, "
            f"and {size:,} images in {name}, of which {len(bad_images):,} "
            "cannot be read"
        )
    if paths:
        split = _split_records(paths, counts, channels, is_wanted, labels)
    else:
        split = _split_files(files, channels, is_wanted, labels)
    return TaughtSplit(split, bad_images)


def _count_records(paths):
    records.refuse_pipes(paths)
    counts = []
    for path in paths:
        counts.append(sum(1 for _ in _read_file(path)))
        if sum(counts) > MOST_IMAGES:
            break
    return counts


def _read_records(paths) -> Iterator[UnlabelledImage]:
    for path in paths:
        for number, record in enumerate(_read_file(path)):
            name = f"Record {number} of {path}"
            try:
                contents, _ = label_records.read_image(record)
                yield UnlabelledImage(name, contents, "")
            except ValueError as error:
                yield UnlabelledImage(name, b"", str(error))


def _read_file(path):
    # By TensorFlow, wherever it is.
    return shards.read_records(path, fetch=contextlib.nullcontext)


def _list_files(name):
    from export.image_files import find_images

    if not os.path.isdir(name) and not records.is_pattern(name):
        raise UserError(
            "--pseudo_labels must be, with --teacher, a folder or a pattern of "
            f"images or of TFRecords. Received: --pseudo_labels={name}"
        )
    files = []
    for path, error in itertools.islice(find_images([name]), MOST_IMAGES + 1):
        if error:
            raise UserError(f"{path} {error}. Received: --pseudo_labels={name}")
        files.append(path)
    return files


def _read_files(files) -> Iterator[UnlabelledImage]:
    from export.image_files import read_image

    for path in files:
        try:
            yield UnlabelledImage(path, read_image(path), "")
        except ValueError as error:
            yield UnlabelledImage(path, b"", str(error))


def _open_teacher(path, class_names):
    # Exports are made of what is trained, and import it. What runs them, and
    # is imported here, does not.
    from export.command_line import InputError
    from export.exported_model import open_model

    try:
        model = open_model(pathlib.Path(path))
    except InputError as error:
        # The programs that raise it know but one model.
        raise UserError(str(error).replace("--model", "--teacher")) from error
    check_classes(class_names, model.metadata["class_names"], path)
    return model.runs["image_bytes"]


def _split_records(paths, counts, channels, is_wanted, labels):
    # Captured by what follows, where it is used.
    with tf.device("CPU"):
        label_tensor = tf.constant(np.stack(labels))
        rows = tf.constant(np.cumsum(is_wanted) - 1)

    def parse(number, record):
        features = {records.IMAGE_KEY: tf.io.FixedLenFeature((), tf.string)}
        example = tf.io.parse_single_example(record, features)
        return example[records.IMAGE_KEY], label_tensor[rows[number]]

    return records.read_split(
        paths, counts, parse, channels=channels, is_wanted=is_wanted
    )


def _split_files(files, channels, is_wanted, labels):
    # Names of files are bytes, which need be no text.
    names = np.array([os.fsencode(path) for path in files], object)[is_wanted]
    return Split(
        tf.data.Dataset.from_tensor_slices((names, np.stack(labels))),
        size=len(labels),
        shuffle_buffer=len(labels),
        load=lambda path: decode_image(tf.io.read_file(path), channels),
    )
