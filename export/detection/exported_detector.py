"""Opens an exported detector without the network that it was made of."""

import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from export.command_line import InputError
from export.exported_model import check_checksums
from export.exported_model import explaining

_PROBLEM = (
    "--model must be written by export.export_detector and be whole, but it "
    "cannot be run"
)


class Detections(NamedTuple):
    """What was found in an image, the best first.

    Attributes:
        boxes: float32, `(detections, 4)`: ymin, xmin, ymax and xmax in pixels
            of the image.
        classes: int32, `(detections,)`, from 1.
        scores: float32, `(detections,)`, from 0 to 1.
        masks: float32, `(detections, mask_height, mask_width)`: how sure it is
            that a part of the box belongs to the object; or, pasted, bool,
            `(detections, height, width)`.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray

    def take(self, which: np.ndarray) -> "Detections":
        """Returns some of them, by their numbers or a bool for each."""
        return Detections(*(values[which] for values in self))


class ExportedDetector(NamedTuple):
    """An exported detector that is in memory.

    Attributes:
        class_names: of class n at n - 1.
        detect: function of an image, uint8 `(height, width, 3)`.
    """

    class_names: list[str]
    detect: Callable[[np.ndarray], Detections]


def open_detector(model_path: pathlib.Path) -> ExportedDetector:
    """Opens an exported detector and runs it once.

    Args:
        model_path: folder of an export, or of its SavedModel.

    Raises:
        InputError: If there is none, it is damaged, or TensorFlow is missing.
    """
    folder = model_path
    if not (folder / "saved_model.pb").is_file():
        folder = model_path / "saved_model"
    if not (folder / "saved_model.pb").is_file():
        raise InputError(
            "--model must be the folder of an export of "
            f"export.export_detector. Received: {model_path}"
        )
    check_checksums(folder)
    with explaining(_PROBLEM, model_path):
        class_names = _read_class_names(folder)
        detect = _load(folder)
        detect(np.zeros((8, 8, 3), "uint8"))
    return ExportedDetector(class_names, detect)


def _read_class_names(folder):
    metadata = json.loads((folder / "assets" / "metadata.json").read_bytes())
    names = metadata["class_names"]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("class_names is no list of names")
    return names


def _load(folder):
    import tensorflow as tf

    model = tf.saved_model.load(str(folder))
    signature = model.signatures["serving_default"]

    def detect(image):
        outputs = signature(images=tf.constant(image[np.newaxis], tf.float32))
        count = int(outputs["num_detections"][0])
        return Detections(
            *(outputs[name][0, :count].numpy() for name in Detections._fields)
        )

    # What finds the signature while the model is there.
    detect.model = model
    return detect
