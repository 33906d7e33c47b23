"""A classifier as a TensorFlow Lite file with weights of 8 bits."""

import pathlib
from typing import TYPE_CHECKING

import numpy as np

from export.formats import tflite

if TYPE_CHECKING:
    from export.trained_classifier import Classifier


def write(
    classifier: "Classifier", path: pathlib.Path, images: np.ndarray | None
) -> None:
    """Writes a TensorFlow Lite file whose larger weights are integers.

    What they are multiplied by is quantized image by image as it is computed,
    and the rest stays in float32, so that no images are needed to write it.

    Args:
        classifier: what to write.
        path: file to make, whose name ends in `.tflite`.
        images: not needed.
    """
    del images
    # So it is where nothing else is said.
    tflite.convert(classifier, path, quantize=lambda converter: None)
