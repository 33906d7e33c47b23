"""A classifier as a TensorFlow Lite file that computes with integers."""

import pathlib
from typing import TYPE_CHECKING

import numpy as np

from export.formats import tflite

if TYPE_CHECKING:
    from export.trained_classifier import Classifier


def write(
    classifier: "Classifier", path: pathlib.Path, images: np.ndarray | None
) -> None:
    """Writes a TensorFlow Lite file of integers of 8 bits.

    Input and output are float32, as in the other files, and are converted at
    once. With activations of 16 bits the file would be written too, but the
    quotient in the content lambdas has no such kind, and the result is
    silently wrong.

    Args:
        classifier: what to write.
        path: file to make, whose name ends in `.tflite`.
        images: float32, `(examples, image_size, image_size, channels)`, from
            0 to 255: such as the network will see. The ranges of the integers
            are those of the activations that they lead to.
    """
    import tensorflow as tf

    from lambda_keras.contraction import cost_model

    def quantize(converter):
        operators = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        converter.target_spec.supported_ops = [operators]
        converter.representative_dataset = lambda: (
            [image[np.newaxis]] for image in images
        )

    # The converter dies of a loop whose operators are to be integer ones.
    with cost_model.without_loops():
        tflite.convert(classifier, path, quantize)
