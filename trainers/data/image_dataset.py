"""What a data set is to training, whatever it is read from."""

import dataclasses
from collections.abc import Callable
from collections.abc import Collection

import numpy as np
import sklearn.model_selection
import tensorflow as tf

from trainers.program import UserError

# Undecoded examples in memory; at ImageNet's size about 1 GiB.
LARGEST_SHUFFLE_BUFFER = 10_000
_VALIDATION_SHARE = 0.2
# Which examples are held out does not change from run to run.
_SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples of a data set in a fixed order.

    Attributes:
        examples: dataset of pairs of a stored image and its class, an int64,
            or the shares of all classes, float32 `(num_classes,)`.
        size: int. Number of examples.
        shuffle_buffer: int. Number of examples among which to shuffle.
        load: function from a stored image to uint8 `(height, width,
            channels)`.
        reorder: function from a key, `(2,)`, to the examples in another
            order, for splits that do not fit the shuffle buffer. `None` if
            shuffling is enough.
        describe: function from the position of an example to a name by which
            a user finds it. `None` if there are no images to be checked.
        drop: function from positions to the split without their examples.
            `None` if there are no images to be checked.
    """

    examples: tf.data.Dataset
    size: int
    shuffle_buffer: int
    load: Callable[[tf.Tensor], tf.Tensor]
    reorder: Callable[[tf.Tensor], tf.data.Dataset] | None = None
    describe: Callable[[int], str] | None = None
    drop: Callable[[Collection[int]], "Split"] | None = None


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """What is known of a data set before its images are read.

    Attributes:
        class_names: list of str.
        channels: 1 for grayscale or 3 for colors.
        train: `Split` to train on.
        validation: `Split` to choose the best epoch by, and to evaluate on.
        pseudo_labelled: `Split` that a teacher labelled, to train on besides.
            `None` if there is none.
    """

    class_names: list[str]
    channels: int
    train: Split
    validation: Split
    pseudo_labelled: Split | None = None


def split_arrays(
    images: np.ndarray, labels: np.ndarray, *, channels: int = 1
) -> Split:
    """Makes a split of gray images in memory.

    Args:
        images: uint8, `(examples, height, width, 1)`.
        labels: `(examples,)`.
        channels: 1, or 3 for the same image in each color.
    """
    return Split(
        tf.data.Dataset.from_tensor_slices(
            (images, np.asarray(labels, np.int64))
        ),
        size=len(labels),
        shuffle_buffer=len(labels),
        load=tf.identity if channels == 1 else tf.image.grayscale_to_rgb,
    )


def hold_out(images: Collection, labels: Collection) -> tuple[tuple, tuple]:
    """Divides examples into those to train on and a fifth of each class.

    Returns:
        `(images, labels)` to train on, and `(images, labels)` held out.

    Raises:
        UserError: If there are too few.
    """
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
