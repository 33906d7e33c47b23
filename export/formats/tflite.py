"""Writes a classifier as one TensorFlow Lite file."""

import json
import pathlib
import zipfile

import keras
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from export.trained_classifier import Classifier


def write_tflite(classifier: Classifier, path: pathlib.Path) -> list[str]:
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

    Returns:
        The names of the operators that the file needs.

    Raises:
        RuntimeError: If it needs any that are not built in.
    """
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
        archive.writestr("metadata.json", json.dumps(classifier.describe()))
    return operators


def list_operators(content: bytes) -> list[str]:
    """Returns the sorted names of the operators in a TensorFlow Lite file.

    Args:
        content: the contents of the file.

    Returns:
        Names such as `"CONV_2D"`; `"CUSTOM:<name>"` if not built in.
    """
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    operators = set()
    for operator in schema.ModelT.InitFromPackedBuf(content, 0).operatorCodes:
        # Codes below 127 are in the older of the two fields.
        name = names[max(operator.builtinCode, operator.deprecatedBuiltinCode)]
        if operator.customCode is not None:
            name = f"CUSTOM:{operator.customCode.decode()}"
        operators.add(name)
    return sorted(operators)
