"""The formats in which a classifier is exported: how each is written and run.

This folder and `export/predict.py`, with what that imports, need nothing else
of this project to run what was exported. Importing them loads no framework: a
writer or runner imports what it needs when it is called, so that nobody needs
the frameworks of another format.
"""

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import numpy as np

from export.formats import onnx
from export.formats import saved_model
from export.formats import tflite
from export.formats import tflite_dynamic
from export.formats import tflite_float16
from export.formats import tflite_int8

if TYPE_CHECKING:
    from export.trained_classifier import Classifier

# Examples -> probabilities `(examples, classes)`, and errors if they are files.
Run = Callable[[Any], Any]


class Format(NamedTuple):
    """A format, with the functions that write and run it.

    Attributes:
        name: how a user chooses it.
        file_name: of the file or folder in an export.
        write: function `(classifier, path, images) -> None` that makes it.
            `images`, float32 `(examples, image_size, image_size, channels)`,
            are such as the network will see, or `None` if there are none.
        recognizes: function of a path that says whether such a model is
            there, whatever its name.
        read_metadata: function of a path that returns what
            `Classifier.describe` said. Raises `OSError`, `KeyError` or
            `zipfile.BadZipFile` if nothing of the kind is there.
        load: function of a path that returns a function for each kind of
            examples that it takes, 0 of them too. All take `"image_bytes"`, a
            list of the contents of image files; what is wrong with each, or
            "", is returned beside the probabilities, which are then NaN; and
            `"prepared"`, float32 `(examples, image_size, image_size,
            channels)`. Those that crop and resize images themselves take
            `"images"` too, uint8 `(examples, height, width, channels)`.
        tolerance: the largest difference from Keras in a probability, if it
            computes with the same weights.
        count_operators: function of a path that counts `"all"` operators and
            those that compute in `"float"`, by their names. `None` if all do.
        needs_images: bool. Whether it cannot be written without images.
        packages: what must be installed to write and run it, besides
            TensorFlow.
        runs_batches: bool. Whether it computes several examples at once, and
            not one after the other.
    """

    name: str
    file_name: str
    write: "Callable[[Classifier, pathlib.Path, np.ndarray | None], None]"
    recognizes: Callable[[pathlib.Path], bool]
    read_metadata: Callable[[pathlib.Path], dict]
    load: Callable[[pathlib.Path], dict[str, Run]]
    tolerance: float = 1.0
    count_operators: Callable[[pathlib.Path], dict] | None = None
    needs_images: bool = False
    packages: tuple[str, ...] = ()
    runs_batches: bool = True

    @property
    def is_approximate(self) -> bool:
        """Whether it computes with other weights than Keras, rounded ones."""
        return self.tolerance == 1.0


# Float32 sums in another order differ by some 1e-6 in a probability; a wrong
# layer, weight, crop or pixel range, or half precision, by over 1e-3. A
# difference of 1e-4 is below what `export.predict` prints.
_EXACT = 1e-4


def _make_tflite(name, file_name, write, **attributes):
    return Format(
        name,
        file_name,
        write,
        tflite.recognizes,
        tflite.read_metadata,
        tflite.load,
        count_operators=tflite.count_operators,
        packages=("ai_edge_litert",),
        runs_batches=False,
        **attributes,
    )


FORMATS = (
    Format(
        "saved_model",
        "saved_model",
        saved_model.write,
        saved_model.recognizes,
        saved_model.read_metadata,
        saved_model.load,
        tolerance=_EXACT,
    ),
    _make_tflite("tflite", "model.tflite", tflite.write, tolerance=_EXACT),
    _make_tflite(
        "tflite_float16", "model_float16.tflite", tflite_float16.write
    ),
    _make_tflite(
        "tflite_dynamic", "model_dynamic.tflite", tflite_dynamic.write
    ),
    _make_tflite(
        "tflite_int8",
        "model_int8.tflite",
        tflite_int8.write,
        needs_images=True,
    ),
    Format(
        "onnx",
        "model.onnx",
        onnx.write,
        onnx.recognizes,
        onnx.read_metadata,
        onnx.load,
        tolerance=_EXACT,
        packages=("onnx", "onnxruntime", "tf2onnx"),
    ),
)
