"""The formats in which a classifier is exported: how each is written and run.

This folder, `export/preprocessing.py` and `export/predict.py` need nothing
else of this project to run what was exported. Importing them loads no
framework: a writer or runner imports what it needs when it is called, so that
nobody needs the frameworks of another format.
"""

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import numpy as np

from export.formats import saved_model
from export.formats import tflite

if TYPE_CHECKING:
    from export.trained_classifier import Classifier

# Examples -> probabilities `(examples, classes)`.
Run = Callable[[Any], np.ndarray]


class Format(NamedTuple):
    """A format, with the functions that write and run it.

    Attributes:
        file_name: of the file or folder in an export; its name in tables.
        write: function `(classifier, path) -> None` that makes it.
        recognizes: function of a path that says whether such a model is
            there, whatever its name.
        read_metadata: function of a path that returns what
            `Classifier.describe` said. Raises `OSError`, `KeyError` or
            `zipfile.BadZipFile` if nothing of the kind is there.
        load: function of a path that returns a function for each kind of
            examples that it takes: `"image_bytes"`, a list of the contents of
            image files, which every format takes; `"images"`, uint8
            `(examples, height, width, channels)`, if it crops and resizes
            those itself.
    """

    file_name: str
    write: "Callable[[Classifier, pathlib.Path], None]"
    recognizes: Callable[[pathlib.Path], bool]
    read_metadata: Callable[[pathlib.Path], dict]
    load: Callable[[pathlib.Path], dict[str, Run]]


FORMATS = (
    Format(
        "saved_model",
        saved_model.write,
        saved_model.recognizes,
        saved_model.read_metadata,
        saved_model.load,
    ),
    Format(
        "model.tflite",
        tflite.write,
        tflite.recognizes,
        tflite.read_metadata,
        tflite.load,
    ),
)
