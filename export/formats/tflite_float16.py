"""A classifier as a TensorFlow Lite file of half the size."""

import pathlib
from typing import TYPE_CHECKING

import numpy as np

from export.formats import tflite

if TYPE_CHECKING:
    from export.trained_classifier import Classifier


def write(
    classifier: "Classifier", path: pathlib.Path, images: np.ndarray | None
) -> None:
    """Writes a TensorFlow Lite file with weights in float16.

    A GPU computes with them as they are; a CPU makes float32 of them first.

    Args:
        classifier: what to write.
        path: file to make, whose name ends in `.tflite`.
        images: not needed.
    """
    import tensorflow as tf

    del images

    def quantize(converter):
        converter.target_spec.supported_types = [tf.float16]

    tflite.convert(classifier, path, quantize)
