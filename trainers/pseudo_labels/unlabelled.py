"""Images that a teacher is asked about, and its answers."""

import itertools
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trainers.pseudo_labels.label_records import Teacher
from trainers.pseudo_labels.label_records import check_prediction

# Of the files that are classified at once.
_MOST_BYTES = 2**28


class UnlabelledImage(NamedTuple):
    """An image file, or what is wrong with it.

    Attributes:
        name: by which a user finds it.
        contents: of the file.
        error: what is wrong with it, or `""`.
    """

    name: str
    contents: bytes
    error: str


def classify_images(
    images: Iterable[UnlabelledImage],
    classify: Callable[[Sequence[bytes]], tuple],
    batch_size: int,
) -> Iterator[tuple[UnlabelledImage, np.ndarray | None]]:
    """Asks a teacher about images.

    Args:
        images: the images.
        classify: function from the contents of image files to the
            probabilities, `(files, classes)`, and for each file what is wrong
            with it, or `""`; one of the `runs` of an export.
        batch_size: images that are classified at once, at most.

    Yields:
        Each image in turn, with what is wrong with it, and `(classes,)`, or
        `None` if it is known to be bad already.
    """
    for batch in _make_batches(images, batch_size):
        contents = [image.contents for image in batch if not image.error]
        rows = iter(zip(*classify(contents), strict=True))
        for image in batch:
            if image.error:
                yield image, None
            else:
                probabilities, error = next(rows)
                yield image._replace(error=error), probabilities


def _make_batches(images, batch_size):
    images = iter(images)
    for first in images:
        batch, size = [first], len(first.contents)
        for image in itertools.islice(images, batch_size - 1):
            batch.append(image)
            size += len(image.contents)
            if size >= _MOST_BYTES:
                break
        yield batch


def rank_classes(
    probabilities: np.ndarray, class_names: Sequence[str]
) -> np.ndarray:
    """Returns the numbers of all classes, the most probable first.

    Args:
        probabilities: `(classes,)`.
        class_names: of the teacher.

    Raises:
        ValueError: If they are no probabilities; says what is wrong, to
            follow the name of the image.
    """
    order = np.argsort(-probabilities, kind="stable")
    # Of a few classes, any sum below 1 would be right.
    whose = Teacher("", list(class_names), len(class_names), "")
    check_prediction(order, probabilities[order], whose)
    return order
