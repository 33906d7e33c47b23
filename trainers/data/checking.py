"""Finds the images that cannot be read, before hours of training.

Which images are left out is settled here, so that the order of the others
depends on nothing that happens later.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import tensorflow as tf

from trainers.data import decoding
from trainers.data.image_dataset import ImageDataset
from trainers.data.image_dataset import Split
from trainers.files import make_path
from trainers.files import replacing
from trainers.program import UserError

_REASONS = (decoding.NO_IMAGE, decoding.TOO_LARGE, decoding.OTHER_BMP)
# What TensorFlow says where it fails, in different places.
_DECODING = "|".join(
    [
        "Decode(Image|Png|Jpeg|Bmp|Gif)|ExtractJpegShape",
        *map(re.escape, (*_REASONS, decoding.DAMAGED)),
    ]
)
# Checking fewer images takes no time worth a progress bar.
_MANY_IMAGES = 1_000


def find_bad_images(split: Split) -> dict[int, str]:
    """Decodes each image of a split once.

    Returns:
        What is wrong, by the position of the example in the split; empty for
        a split that needs no check.
    """
    if split.describe is None:
        return {}
    decoded = split.examples.map(
        lambda stored_image, _: tf.shape(split.load(stored_image)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    iterator = iter(decoded)
    progress = keras.utils.Progbar(
        split.size, verbose=int(split.size >= _MANY_IMAGES), unit_name="image"
    )
    bad_images = {}
    for position in range(split.size):
        try:
            next(iterator)
        except (
            tf.errors.InvalidArgumentError,
            tf.errors.NotFoundError,
            tf.errors.PermissionDeniedError,
        ) as error:
            bad_images[position] = _explain(error)
        progress.add(1)
    return bad_images


def drop_bad_images(
    dataset: ImageDataset, max_bad_images: int = 0, *, training: bool = True
) -> tuple[ImageDataset, list[str]]:
    """Leaves out the images that cannot be read.

    Args:
        dataset: what to check.
        max_bad_images: how many may be left out.
        training: whether to check the images to train on too.

    Returns:
        The rest, and lines of a name and what is wrong with it.

    Raises:
        BadImagesError: If there are more.
    """
    lines = []
    good = {}
    for name in ("train", "validation") if training else ("validation",):
        split = getattr(dataset, name)
        bad_images = find_bad_images(split)
        if bad_images:
            good[name] = split.drop(list(bad_images))
        lines += [
            f"{split.describe(position)} {reason}"
            for position, reason in bad_images.items()
        ]
    check_number(lines, max_bad_images)
    return dataclasses.replace(dataset, **good), lines


def check_number(lines: Sequence[str], max_bad_images: int) -> None:
    """Checks that no more images are bad than may be.

    Args:
        lines: a name, and what is wrong, of each bad image.
        max_bad_images: how many may be left out.

    Raises:
        BadImagesError: If there are more.
    """
    if len(lines) > max_bad_images:
        raise BadImagesError(lines, max_bad_images)


@contextlib.contextmanager
def explaining_bad_images() -> Iterator[None]:
    """Makes one line of a bad image that nobody checked within the block.

    Data sets of TensorFlow Datasets are not checked beforehand.

    Raises:
        UserError: If an image cannot be decoded.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if not re.search(_DECODING, error.message):
            raise
        raise UserError(
            f"An image of the data set {_explain(error)}, and its name is not "
            "known; make the data set anew without it, or train on its images "
            "in a folder, where --max_bad_images leaves out bad ones. The last "
            "state is kept."
        ) from error


class BadImagesError(UserError):
    """More images are bad than may be.

    Attributes:
        lines: names of all of them and what is wrong with each.
    """

    def __init__(self, lines: Sequence[str], max_bad_images: int):
        self.lines = lines
        others = f", and {len(lines) - 1} others are bad" * (len(lines) > 1)
        super().__init__(
            f"{lines[0]}{others}; mend or remove what is bad, or allow it with "
            f"--max_bad_images={len(lines)}. "
            f"Received: --max_bad_images={max_bad_images}"
        )


def write_bad_images(path: os.PathLike, lines: Sequence[str]) -> None:
    """Writes a file of bad images, or removes it if there are none."""
    path = make_path(path)
    if not lines:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines))


def compare_bad_images(path: os.PathLike, lines: Sequence[str]) -> None:
    """Checks that a run goes on without the same images as it began.

    Raises:
        UserError: If others are bad now than those in the file.
    """
    path = make_path(path)
    before = path.read_text().splitlines() if path.exists() else []
    if before != list(lines):
        raise UserError(
            f"Other images are bad than those in {path}, so that this would "
            "be another run; make them as they were, or choose another "
            f"--model_dir. Received: {len(lines)} instead of {len(before)}"
        )


def _explain(error):
    if isinstance(error, tf.errors.PermissionDeniedError):
        return "may not be read"
    if isinstance(error, tf.errors.NotFoundError):
        return "is not there"
    for reason in _REASONS:
        if reason in error.message:
            return reason
    return decoding.DAMAGED
