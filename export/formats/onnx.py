"""A classifier as one ONNX file."""

import functools
import json
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from export import preprocessing

if TYPE_CHECKING:
    from export.formats import Run
    from export.trained_classifier import Classifier

_METADATA_KEY = "metadata.json"
_OPSET = 18


def write(
    classifier: "Classifier", path: pathlib.Path, images: np.ndarray | None
) -> None:
    """Writes a float32 ONNX file for any number of images.

    Its input `images` is `(batch_size, image_size, image_size, channels)`, from
    0 to 255, already cropped and resized; its output `probabilities` is
    `(batch_size, classes)`. What `Classifier.describe` returns is among the
    properties of its metadata.

    Args:
        classifier: what to write.
        path: file to make, whose name ends in `.onnx`.
        images: not needed.
    """
    import onnx
    import tensorflow as tf
    import tf2onnx

    del images
    spec = tf.TensorSpec(
        classifier.model.input_shape, tf.float32, name="images"
    )

    @tf.function(input_signature=[spec], autograph=False)
    def classify(images):
        return {"probabilities": classifier.model(images, training=False)}

    model, _ = tf2onnx.convert.from_function(
        classify, input_signature=[spec], opset=_OPSET
    )
    description = json.dumps(classifier.describe())
    onnx.helper.set_model_props(model, {_METADATA_KEY: description})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def recognizes(path: pathlib.Path) -> bool:
    """Returns whether an ONNX file is there."""
    return path.suffix == ".onnx" and path.is_file()


def read_metadata(path: pathlib.Path) -> dict:
    """Returns what `Classifier.describe` said of an ONNX file.

    Raises:
        KeyError: If it carries no metadata.
    """
    properties = _open(path).get_modelmeta().custom_metadata_map
    return json.loads(properties[_METADATA_KEY])


def load(path: pathlib.Path) -> "dict[str, Run]":
    """Loads an ONNX file that `write` wrote.

    Returns:
        Functions of `"prepared"` and of `"image_bytes"`.
    """
    metadata = read_metadata(path)
    session = _open(path)
    (output,) = session.get_outputs()

    def classify(images):
        if not len(images):
            return np.zeros((0, output.shape[1]), "float32")
        (probabilities,) = session.run([output.name], {"images": images})
        return probabilities

    return {
        "prepared": classify,
        "image_bytes": functools.partial(
            preprocessing.classify_files, classify, metadata
        ),
    }


def _open(path):
    import onnxruntime

    # Without a list of providers, some builds refuse.
    return onnxruntime.InferenceSession(
        str(path),
        providers=["CPUExecutionProvider"],
        # It would print that it tries the same once more.
        enable_fallback=False,
    )
