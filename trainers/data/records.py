"""TFRecords with the keys of ImageNet's, here or wherever TensorFlow reads.

A record is a `tf.train.Example` with `image/encoded`, the contents of an image
file, and `image/class/label`, a number. Labels begin at 1, as in ImageNet's,
unless `first_label` says otherwise; those of the first class in labels.txt (or
classes.txt) beside the records, which holds a name on each line, have that
number. `trainers.data.make_records` writes such files.
"""

import functools
import os
import re
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from trainers.data.decoding import decode_image
from trainers.data.image_dataset import LARGEST_SHUFFLE_BUFFER
from trainers.data.image_dataset import ImageDataset
from trainers.data.image_dataset import Split
from trainers.program import UserError

IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/class/label"
NAME_KEY = "image/filename"
CLASSES_FILES = ("labels.txt", "classes.txt")
_RECORDS_NAME = re.compile(r"\.tfrecords?\b|-\d{5}-of-\d{5}$")
_SPLIT_NAME = re.compile(r"(?<![a-z])(train|validation|val|test)(?![a-z])")
# Without files to validate on, every fifth record is held out.
_HELD_OUT_EVERY = 5
# Files that are read at once. It decides the order of the examples, so it is
# the same on each machine.
_FILES_AT_ONCE = 16
# Few requests to a bucket, and few seeks on a disk.
_READ_BYTES = 8 * 2**20


def is_pattern(name: str) -> bool:
    """Returns whether a name stands for those of many files."""
    return any(character in name for character in "*?[")


def is_records_name(name: str) -> bool:
    """Returns whether a file of this name is taken for one of TFRecords."""
    return bool(_RECORDS_NAME.search(name))


def are_records(name: str) -> bool:
    """Returns whether a name is of TFRecords: a folder, a pattern, a file.

    Raises:
        UserError: If it cannot be looked for.
    """
    return bool(list_files(name))


def open_records(
    name: str, *, channels: int = 3, first_label: int = 1
) -> ImageDataset:
    """Opens TFRecords, reads all of them once and counts the examples.

    The names of the files say what is for training and what is held out, by
    the words train, and validation, val or test; ImageNet's are called
    train-00000-of-01024 and validation-00000-of-00128. Without files that are
    held out, every fifth record is.

    Args:
        name: a folder, a file, or a pattern such as `"gs://bucket/train-*"`.
        channels: 1 for grayscale or 3 for colors.
        first_label: number of the first class.

    Raises:
        UserError: If files are damaged or hold something else, or if a label
            is of no class.
    """
    train, held_out = _divide(list_files(name))
    train_counts, labels = _count_examples(train)
    held_out_counts, held_out_labels = _count_examples(held_out)
    labels |= held_out_labels
    if not labels:
        raise UserError(f"The TFRecords in {name} hold no examples.")
    class_names = _read_class_names(os.path.dirname(train[0]))
    if class_names is None:
        most = max(labels)
        class_names = [str(label) for label in range(first_label, most + 1)]
    _check_labels(labels, class_names, first_label)
    every = np.ones(sum(train_counts), bool)
    if held_out:
        every_held_out = np.ones(sum(held_out_counts), bool)
        parts = [
            (train, train_counts, every),
            (held_out, held_out_counts, every_held_out),
        ]
    else:
        is_held_out = (
            np.arange(len(every)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
        )
        parts = [
            (train, train_counts, ~is_held_out),
            (train, train_counts, is_held_out),
        ]

    def parse(_, record):
        return parse_example(record, first_label)

    splits = [
        read_split(paths, counts, parse, channels=channels, is_wanted=is_wanted)
        for paths, counts, is_wanted in parts
    ]
    if not all(split.size for split in splits):
        raise UserError(
            f"There must be records to train on and some to hold out. "
            f"Received: {sum(train_counts)} in {name}"
        )
    return ImageDataset(class_names, channels, *splits)


def read_split(
    paths: Sequence[str],
    counts: Sequence[int],
    parse: Callable[[tf.Tensor, tf.Tensor], tuple],
    *,
    channels: int,
    is_wanted: np.ndarray | None = None,
) -> Split:
    """Makes a split of the records of some files.

    Args:
        paths: the files.
        counts: numbers of records in them.
        parse: function from the number of a record, counted over all files in
            turn, and the record to the contents of an image file and a label.
        channels: as in `open_records`.
        is_wanted: bool, `(records,)`, for the records of all files in turn.
            `None` if all are, and no image has to be checked.
    """
    first_numbers = np.cumsum([0, *counts[:-1]])
    # The tensors are captured by what follows.
    path_tensor = tf.constant(paths)
    first_tensor = tf.constant(first_numbers, tf.int64)
    is_partial = is_wanted is not None
    wanted_tensor = tf.constant(is_wanted) if is_partial else None
    size = int(is_wanted.sum()) if is_partial else sum(counts)

    def read_file(file):
        records = tf.data.TFRecordDataset(
            path_tensor[file], buffer_size=_READ_BYTES
        ).enumerate(first_tensor[file])
        if is_partial:
            records = records.filter(lambda number, _: wanted_tensor[number])
        return records.map(parse)

    def reorder(key):
        # The examples' own keys are folded in from 0.
        files_key = tf.random.experimental.stateless_fold_in(key, -1)
        seed = tf.random.stateless_uniform(
            (), files_key, maxval=2**31, dtype=tf.int64
        )
        return (
            tf.data.Dataset.range(len(paths))
            .shuffle(len(paths), seed=seed, reshuffle_each_iteration=False)
            .interleave(
                read_file,
                cycle_length=_FILES_AT_ONCE,
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
        )

    def describe(position):
        number = np.flatnonzero(is_wanted)[position]
        file = np.searchsorted(first_numbers, number, side="right") - 1
        return f"Record {number - first_numbers[file]} of {paths[file]}"

    def drop(positions):
        rest = is_wanted.copy()
        rest[np.flatnonzero(is_wanted)[list(positions)]] = False
        return read_split(
            paths, counts, parse, channels=channels, is_wanted=rest
        )

    return Split(
        tf.data.Dataset.range(len(paths)).flat_map(read_file),
        size=size,
        shuffle_buffer=min(size, LARGEST_SHUFFLE_BUFFER),
        load=functools.partial(decode_image, channels=channels),
        reorder=reorder,
        describe=describe if is_partial else None,
        drop=drop if is_partial else None,
    )


def serialize_example(values: Mapping[str, bytes | float | list]) -> bytes:
    """Makes a record: always the same bytes of the same values.

    Args:
        values: by their keys; bytes, a number, or a list of either.
    """
    # Takes seconds to import, which only those that write need.
    from official.vision.data import tfrecord_lib

    feature = {
        key: tfrecord_lib.convert_to_feature(value)
        for key, value in values.items()
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def parse_example(
    record: tf.Tensor, first_label: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the contents of an image file, and a class from 0."""
    example = tf.io.parse_single_example(
        record,
        {
            IMAGE_KEY: tf.io.FixedLenFeature((), tf.string),
            LABEL_KEY: tf.io.FixedLenFeature((), tf.int64),
        },
    )
    return example[IMAGE_KEY], example[LABEL_KEY] - first_label


def list_files(name: str, flag: str = "dataset") -> list[str]:
    """Returns the paths of TFRecords, in the order of their names.

    Args:
        name: a folder, a file, or a pattern of names; of anything else, and of
            what is not there, there are none.
        flag: whose value it is.

    Raises:
        UserError: If it cannot be looked for.
    """
    try:
        if is_pattern(name):
            return sorted(tf.io.gfile.glob(name))
        if tf.io.gfile.isdir(name):
            return sorted(
                os.path.join(name, file)
                for file in tf.io.gfile.listdir(name)
                if _RECORDS_NAME.search(file) and not file.startswith(".")
            )
        is_file = _RECORDS_NAME.search(name) and tf.io.gfile.exists(name)
    except tf.errors.OpError as error:
        reason = " ".join(error.message.split())
        raise UserError(
            f"It cannot be looked for: {reason}. Received: --{flag}={name}"
        ) from error
    return [name] if is_file else []


def _divide(paths):
    """Returns the files to train on, and those that are held out."""
    files = {"train": [], "validation": [], "val": [], "test": [], None: []}
    for path in paths:
        match = _SPLIT_NAME.search(os.path.basename(path))
        files[match and match[1]].append(path)
    held_out = files["validation"] + files["val"] or files["test"]
    train = files["train"]
    if not train and not held_out:
        return files[None], []
    if not train or files[None]:
        raise UserError(
            "TFRecords must be named with train, or with validation, val or "
            "test, or all without any of these. Received: "
            f"{(files[None] or held_out)[0]}"
        )
    return train, held_out


def _count_examples(paths):
    """Reads files; returns numbers of records, and the set of labels."""

    def count(path):
        labels = tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES).map(
            lambda record: parse_example(record, first_label=0)[1]
        )
        none = tf.constant(0, tf.int64)
        int64 = tf.int64
        return labels.reduce(
            (none, tf.constant(int64.max), tf.constant(int64.min)),
            lambda state, label: (
                state[0] + 1,
                tf.minimum(state[1], label),
                tf.maximum(state[2], label),
            ),
        )

    refuse_pipes(paths)
    if not paths:
        return [], set()
    results = iter(
        tf.data.Dataset.from_tensor_slices(paths).map(
            count, num_parallel_calls=_FILES_AT_ONCE, deterministic=True
        )
    )
    counts = []
    labels = set()
    for path in paths:
        examples, least, most = _get_next(results, path)
        counts.append(examples)
        if examples:
            labels |= {least, most}
    return counts, labels


def refuse_pipes(paths: Sequence[str]) -> None:
    """Checks that files can be read: reading a named pipe waits forever.

    Raises:
        UserError: If one is a pipe or a folder.
    """
    for path in paths:
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(
                f"{path} is a folder or a pipe, not a file of TFRecords; "
                "remove or rename it."
            )


def _get_next(results, path):
    try:
        return [int(number) for number in next(results)]
    except tf.errors.DataLossError as error:
        raise UserError(
            f"{path} is damaged or holds no TFRecords; copy it once more."
        ) from error
    except tf.errors.InvalidArgumentError as error:
        raise UserError(
            f"{path} must hold examples with {IMAGE_KEY} and {LABEL_KEY}, one "
            "each."
        ) from error
    except tf.errors.OpError as error:
        # Behind the names of operations and that of the file.
        reason = error.message.partition(f"{path}; ")[2] or error.message
        raise UserError(
            f"{path} cannot be read: {reason.splitlines()[0]}"
        ) from error


def _read_class_names(folder):
    for name in CLASSES_FILES:
        path = os.path.join(folder, name)
        if tf.io.gfile.exists(path):
            with tf.io.gfile.GFile(path) as file:
                return file.read().rstrip("\n").splitlines()
    return None


def _check_labels(labels, class_names, first_label):
    last_label = first_label + len(class_names) - 1
    wrong = {
        label for label in labels if not first_label <= label <= last_label
    }
    if wrong:
        raise UserError(
            f"Labels must be from {first_label} to {last_label}, for "
            f"{len(class_names)} classes from --first_label on. Received: "
            f"{min(labels)} to {max(labels)}, --first_label={first_label}"
        )
