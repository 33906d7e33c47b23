"""TFRecords of images with what a teacher says they are.

A record is a `tf.train.Example` with the keys of `trainers.data.records`, the
label that of the surest class, and what the teacher says besides. Beside the
records lies teacher.json, which says whose labels they are.
"""

import json
import os
from collections.abc import Callable
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainers.data.records import IMAGE_KEY
from trainers.data.records import LABEL_KEY
from trainers.data.records import NAME_KEY
from trainers.data.records import serialize_example
from trainers.program import UserError
from trainers.pseudo_labels import shards

# Numbers of classes from 0, the surest first.
CLASSES_KEY = "image/predictions/classes"
PROBABILITIES_KEY = "image/predictions/probabilities"
TEACHER_KEY = "image/predictions/teacher"
TEACHER_FILE = "teacher.json"
# Of the class 0, as in ImageNet's records.
FIRST_LABEL = 1
# Networks in float16 are less exact than others.
_TOLERANCE = 0.01


class Teacher(NamedTuple):
    """Who labelled, as teacher.json has it.

    Attributes:
        fingerprint: hexadecimal digits; of another model they are others.
        class_names: list of str.
        top_k: number of classes in a record, the surest ones.
        model: where the model was, for people.
    """

    fingerprint: str
    class_names: list[str]
    top_k: int
    model: str


class LabelledImage(NamedTuple):
    """A record.

    Attributes:
        contents: of an image file.
        name: by which a user finds the image.
        classes: int64, `(top_k,)`, from 0, the surest first.
        probabilities: float32, `(top_k,)`, falling.
        fingerprint: of the teacher.
    """

    contents: bytes
    name: str
    classes: np.ndarray
    probabilities: np.ndarray
    fingerprint: str


def make_record(image: LabelledImage, *, is_soft: bool = True) -> bytes:
    """Makes a record.

    Args:
        image: what it holds.
        is_soft: whether it has the probabilities, and not only the surest
            class.
    """
    values = {
        IMAGE_KEY: image.contents,
        NAME_KEY: os.fsencode(image.name),
        TEACHER_KEY: image.fingerprint.encode(),
        LABEL_KEY: image.classes[0] + FIRST_LABEL,
    }
    if is_soft:
        values[CLASSES_KEY] = list(image.classes)
        values[PROBABILITIES_KEY] = list(image.probabilities)
    return serialize_example(values)


def read_features(record: bytes) -> Mapping[str, tf.train.Feature]:
    """Reads a record of whatever keys.

    Raises:
        ValueError: If it is none; says so, to follow the record's name.
    """
    try:
        return tf.train.Example.FromString(record).features.feature
    # Of protobuf, which has several of them.
    except Exception as error:
        raise ValueError("is no tf.train.Example") from error


def read_image(record: bytes) -> tuple[bytes, str]:
    """Reads the contents of an image file and its name, `""` without one.

    Raises:
        ValueError: If it has no image; says so, to follow the record's name.
    """
    features = read_features(record)
    contents, name = (
        b"".join(features[key].bytes_list.value)
        for key in (IMAGE_KEY, NAME_KEY)
    )
    if not contents:
        raise ValueError(f"has no {IMAGE_KEY}")
    return contents, os.fsdecode(name)


def read_record(record: bytes, teacher: Teacher) -> LabelledImage:
    """Reads a record with probabilities.

    Args:
        record: what `make_record` returned.
        teacher: whose labels they should be.

    Raises:
        ValueError: If it is of another teacher, or malformed; says what is
            wrong, to follow the record's name.
    """
    contents, name = read_image(record)
    features = read_features(record)
    classes = np.array(features[CLASSES_KEY].int64_list.value, np.int64)
    probabilities = np.array(
        features[PROBABILITIES_KEY].float_list.value, np.float32
    )
    fingerprint = b"".join(features[TEACHER_KEY].bytes_list.value)
    if fingerprint.decode(errors="replace") != teacher.fingerprint:
        raise ValueError(f"is of another teacher than {TEACHER_FILE} says")
    check_prediction(classes, probabilities, teacher)
    return LabelledImage(
        contents,
        name,
        classes,
        probabilities,
        teacher.fingerprint,
    )


def check_prediction(
    classes: np.ndarray, probabilities: np.ndarray, teacher: Teacher
) -> None:
    """Checks what a teacher said of an image.

    Args:
        classes: int, `(top_k,)`.
        probabilities: float, `(top_k,)`.
        teacher: who said it.

    Raises:
        ValueError: If it cannot be; says what is wrong, to follow the
            record's name.
    """
    count = len(teacher.class_names)
    if len(classes) != teacher.top_k or len(probabilities) != teacher.top_k:
        raise ValueError(
            f"must have {teacher.top_k} classes and as many probabilities, "
            f"but has {len(classes)} and {len(probabilities)}"
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("has a probability that is no number")
    if (
        len(set(classes)) < len(classes)
        or not ((classes >= 0) & (classes < count)).all()
    ):
        raise ValueError(f"must have different classes from 0 to {count - 1}")
    total = float(probabilities.sum(dtype=np.float64))
    # The surest have at least their share.
    least = teacher.top_k / count
    if (probabilities < 0).any() or not (
        least - _TOLERANCE <= total <= 1 + _TOLERANCE
    ):
        rule = "1" if least == 1 else f"{least:.4g} to 1"
        raise ValueError(
            f"must have probabilities with the sum {rule}, but has {total:.4g}"
        )
    if (np.diff(probabilities) > 0).any():
        raise ValueError("must have the surest class first")


def write_teacher(folder: str, teacher: Teacher) -> None:
    """Writes teacher.json."""
    with shards.replacing(shards.join(folder, TEACHER_FILE)) as path:
        path.write_text(json.dumps(teacher._asdict(), indent=2) + "\n")


def read_teacher(
    folder: str,
    fetch: Callable[[str], AbstractContextManager] = shards.fetching,
) -> Teacher:
    """Reads teacher.json.

    Args:
        folder: where it lies.
        fetch: what makes a local path of one that may be elsewhere.

    Raises:
        UserError: If there is none in the folder, or it is damaged.
    """
    path = shards.join(folder, TEACHER_FILE)
    try:
        with fetch(path) as local:
            teacher = Teacher(**json.loads(local.read_text()))
    except (OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"Labels must be as export.label_images or trainers.select_labels "
            f"wrote them, with {TEACHER_FILE} beside them: {reason}. "
            f"Received: {folder}"
        ) from error
    if (
        not isinstance(teacher.class_names, list)
        or type(teacher.top_k) is not int
        or not 1 <= teacher.top_k <= len(teacher.class_names)
    ):
        raise UserError(
            f"{path} must name classes, and between 1 and all of them must be "
            f"in a record. Received: top_k={teacher.top_k}"
        )
    return teacher
