"""A classifier as one TensorFlow Lite file."""

import json
import pathlib
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from export import preprocessing

if TYPE_CHECKING:
    from export.formats import Run
    from export.trained_classifier import Classifier

_METADATA_FILE = "metadata.json"


def write(classifier: "Classifier", path: pathlib.Path) -> None:
    """Writes a float32 TensorFlow Lite file for one image at a time.

    Its input is `(1, image_size, image_size, channels)`, from 0 to 255,
    already cropped and resized; its output `(1, classes)`, probabilities.
    What `Classifier.describe` returns is packed behind it, where TensorFlow
    Lite keeps associated files: `zipfile` reads it, as does `unzip`.

    The batch size is fixed, because delegates leave tensors of unknown shape
    to the CPU.

    Args:
        classifier: what to write.
        path: file to make, whose name ends in `.tflite`.

    Raises:
        RuntimeError: If it needs operators that are not built in.
    """
    import keras
    import tensorflow as tf

    spec = keras.InputSpec(
        shape=(1, *classifier.model.input_shape[1:]),
        dtype="float32",
        name="images",
    )
    classifier.model.export(
        str(path),
        format="litert",
        verbose=False,
        input_signature=[spec],
        target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]},
        # Weights become constants, which the converter fuses into operators.
        experimental_enable_resource_variables=False,
    )
    operators = list_operators(path.read_bytes())
    unsupported = [name for name in operators if name.startswith("CUSTOM")]
    if unsupported:
        raise RuntimeError(
            "The interpreter of TensorFlow Lite must have every operator "
            f"built in. Received: {unsupported} in {path}"
        )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_METADATA_FILE, json.dumps(classifier.describe()))


def recognizes(path: pathlib.Path) -> bool:
    """Returns whether a TensorFlow Lite file is there."""
    return path.suffix == ".tflite" and path.is_file()


def read_metadata(path: pathlib.Path) -> dict:
    """Returns what `Classifier.describe` said of a TensorFlow Lite file.

    Raises:
        KeyError: If it carries other files only.
        zipfile.BadZipFile: If it carries nothing.
    """
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(_METADATA_FILE))


def load(path: pathlib.Path) -> "dict[str, Run]":
    """Loads a TensorFlow Lite file that `write` wrote.

    Returns:
        A function of `"image_bytes"`.
    """
    from ai_edge_litert.interpreter import Interpreter

    metadata = read_metadata(path)
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (input_details,) = interpreter.get_input_details()
    (output_details,) = interpreter.get_output_details()

    def classify(contents):
        image = preprocessing.prepare_image(
            preprocessing.decode_image(contents, metadata["channels"]),
            metadata["image_size"],
            metadata["crop_fraction"],
        )
        interpreter.set_tensor(input_details["index"], image[None])
        interpreter.invoke()
        return interpreter.get_tensor(output_details["index"])[0]

    def run(files):
        return np.stack([classify(contents) for contents in files])

    return {"image_bytes": run}


def list_operators(content: bytes) -> list[str]:
    """Returns the sorted names of the operators in a TensorFlow Lite file.

    Args:
        content: the contents of the file.

    Returns:
        Names such as `"CONV_2D"`; `"CUSTOM:<name>"` if not built in.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    operators = set()
    for operator in schema.ModelT.InitFromPackedBuf(content, 0).operatorCodes:
        # Codes below 127 are in the older of the two fields.
        name = names[max(operator.builtinCode, operator.deprecatedBuiltinCode)]
        if operator.customCode is not None:
            name = f"CUSTOM:{operator.customCode.decode()}"
        operators.add(name)
    return sorted(operators)
