"""Images with the labels that a teacher gave them before, to train on."""

import concurrent.futures
import contextlib
import functools
import os
import re
from collections.abc import Sequence

import tensorflow as tf
from tqdm import tqdm

from trainers import files
from trainers.data import records
from trainers.data.image_dataset import Split
from trainers.program import UserError
from trainers.pseudo_labels import label_records
from trainers.pseudo_labels import shards
from trainers.pseudo_labels.classes import check_classes
from trainers.pseudo_labels.label_records import Teacher

_SHARD_NAME = re.compile(r"-\d{5}-of-(\d{5})$")
# While one is parsed, others are read.
_FILES_AT_ONCE = 16


def open_labelled(
    name: str, *, class_names: Sequence[str], channels: int
) -> Split:
    """Opens what `export.label_images` or `trainers.select_labels` wrote.

    Reads all of it once. Records with probabilities give soft labels, and
    others the surest class alone.

    Args:
        name: folder, or pattern of names of TFRecords, with teacher.json.
        class_names: of the data set that they are to be mixed with.
        channels: of the images, as in `records.open_records`.

    Returns:
        The images, with labels that are either the shares of all classes or
        the number of one.

    Raises:
        UserError: If there are none, they are not whole, or the teacher knows
            other classes.
    """
    paths = _list_shards(name)
    folder = os.path.dirname(paths[0]) or os.curdir
    teacher = label_records.read_teacher(folder, fetch=files.fetching)
    check_classes(
        class_names,
        teacher.class_names,
        shards.join(folder, label_records.TEACHER_FILE),
    )
    is_soft = _has_probabilities(paths)
    check = functools.partial(_check_shard, teacher=teacher, is_soft=is_soft)
    with concurrent.futures.ThreadPoolExecutor(_FILES_AT_ONCE) as executor:
        counts = list(
            tqdm(
                executor.map(check, paths),
                "Pseudo-labels",
                total=len(paths),
                unit=" files",
                # Only where there are people to see it.
                disable=None,
            )
        )
    if not sum(counts):
        raise UserError(
            f"--pseudo_labels must hold images. Received: none in {name}"
        )
    parse = functools.partial(_parse_soft, teacher) if is_soft else _parse_hard
    return records.read_split(
        paths, counts, lambda _, record: parse(record), channels=channels
    )


def spread_probabilities(
    classes: tf.Tensor, probabilities: tf.Tensor, num_classes: int
) -> tf.Tensor:
    """Makes a soft label of the probabilities of some classes.

    What they lack to 1 is spread evenly over the other classes.

    Args:
        classes: int64, `(top_k,)`, different ones.
        probabilities: float32, `(top_k,)`.
        num_classes: number of classes.

    Returns:
        float32, `(num_classes,)`, with the sum 1.
    """
    missing = tf.maximum(1 - tf.reduce_sum(probabilities), 0.0)
    num_others = max(num_classes - classes.shape[0], 1)
    label = tf.tensor_scatter_nd_update(
        tf.fill((num_classes,), missing / num_others),
        classes[:, tf.newaxis],
        probabilities,
    )
    return label / tf.reduce_sum(label)


def _list_shards(name):
    paths = [
        path
        for path in records.list_files(name, flag="pseudo_labels")
        # What a process left that was killed as it wrote it.
        if not os.path.basename(path).startswith("partial-")
    ]
    if not paths:
        raise UserError(
            "--pseudo_labels must be a folder or a pattern of the TFRecords "
            "that export.label_images or trainers.select_labels wrote; images "
            "without labels need a --teacher besides. Received: "
            f"--pseudo_labels={name}"
        )
    records.refuse_pipes(paths)
    totals = {int(m[1]) for m in map(_SHARD_NAME.search, paths) if m}
    if tf.io.gfile.isdir(name) and totals and totals != {len(paths)}:
        raise UserError(
            f"--pseudo_labels must be a folder of all {max(totals)} files; let "
            f"the program that writes them end. Received: {len(paths)} in "
            f"{name}"
        )
    return paths


def _read_records(path):
    # By TensorFlow, wherever they are: it reads them in training too.
    return shards.read_records(path, fetch=contextlib.nullcontext)


def _has_probabilities(paths):
    """Returns whether the first of all records has them."""
    for path in paths:
        for record in _read_records(path):
            try:
                features = label_records.read_features(record)
            except ValueError:
                # Told of when all are checked.
                return False
            return label_records.PROBABILITIES_KEY in features
    return False


def _check_shard(path: str, teacher: Teacher, is_soft: bool) -> int:
    """Checks each record of a file; returns how many there are."""
    count = 0
    for record in _read_records(path):
        try:
            if is_soft:
                label_records.read_record(record, teacher)
            else:
                _check_hard(record, teacher)
        except ValueError as error:
            raise UserError(
                f"Record {count} of {path} {error}; label or select the images "
                "once more."
            ) from error
        count += 1
    return count


def _check_hard(record, teacher):
    features = label_records.read_features(record)
    if label_records.PROBABILITIES_KEY in features:
        raise ValueError("has probabilities, which the first one has not")
    if not any(features[records.IMAGE_KEY].bytes_list.value):
        raise ValueError(f"has no {records.IMAGE_KEY}")
    fingerprints = features[label_records.TEACHER_KEY].bytes_list.value
    if list(fingerprints) != [teacher.fingerprint.encode()]:
        raise ValueError(
            f"is of another teacher than {label_records.TEACHER_FILE} says"
        )
    labels = list(features[records.LABEL_KEY].int64_list.value)
    first = label_records.FIRST_LABEL
    last = first + len(teacher.class_names) - 1
    if len(labels) != 1 or not first <= labels[0] <= last:
        raise ValueError(
            f"must have one label from {first} to {last}, but has {labels}"
        )


def _parse_soft(teacher, record):
    example = tf.io.parse_single_example(
        record,
        {
            records.IMAGE_KEY: tf.io.FixedLenFeature((), tf.string),
            label_records.CLASSES_KEY: tf.io.FixedLenFeature(
                (teacher.top_k,), tf.int64
            ),
            label_records.PROBABILITIES_KEY: tf.io.FixedLenFeature(
                (teacher.top_k,), tf.float32
            ),
        },
    )
    label = spread_probabilities(
        example[label_records.CLASSES_KEY],
        example[label_records.PROBABILITIES_KEY],
        len(teacher.class_names),
    )
    return example[records.IMAGE_KEY], label


def _parse_hard(record):
    return records.parse_example(record, label_records.FIRST_LABEL)
