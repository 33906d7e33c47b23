"""A classifier as one TensorFlow Lite file."""

import collections
import functools
import hashlib
import io
import json
import pathlib
import tempfile
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from export import preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable

    import tensorflow as tf

    from export.formats import Run
    from export.trained_classifier import Classifier

_METADATA_FILE = "metadata.json"
_CHECKSUM_FILE = "model.sha256"


def write(
    classifier: "Classifier", path: pathlib.Path, images: np.ndarray | None
) -> None:
    """Writes a float32 TensorFlow Lite file; see `convert`."""
    del images
    convert(classifier, path)


def convert(
    classifier: "Classifier",
    path: pathlib.Path,
    quantize: "Callable[[tf.lite.TFLiteConverter], None] | None" = None,
) -> None:
    """Writes a TensorFlow Lite file for one image at a time.

    Its input `images` is float32, `(1, image_size, image_size, channels)`, from
    0 to 255, already cropped and resized; its output `probabilities` is
    float32, `(1, classes)`. What `Classifier.describe` returns is packed behind
    it, where TensorFlow Lite keeps associated files: `zipfile` reads it, as
    does `unzip`. So is the SHA-256 of what stands before.

    The batch size is fixed, because delegates leave tensors of unknown shape
    to the CPU.

    Args:
        classifier: what to write.
        path: file to make, whose name ends in `.tflite`.
        quantize: function that says to a converter with which dtypes to
            compute. Float32 without it.

    Raises:
        RuntimeError: If it needs operators that are not built in.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        _save_frozen(classifier.model, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            quantize(converter)
        content = converter.convert()
    operators = list_operators(content)
    unsupported = [name for name in operators if name.startswith("CUSTOM")]
    if unsupported:
        raise RuntimeError(
            "The interpreter of TensorFlow Lite must have every operator "
            f"built in. Received: {unsupported}"
        )
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_METADATA_FILE, json.dumps(classifier.describe()))
        archive.writestr(_CHECKSUM_FILE, hashlib.sha256(content).hexdigest())


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
        Functions of `"prepared"` and of `"image_bytes"`.

    Raises:
        ValueError: If the file is damaged.
    """
    from ai_edge_litert.interpreter import Interpreter

    metadata = read_metadata(path)
    # Of a file that is opened by name, what replaces it would be run.
    content = path.read_bytes()
    _check_checksum(content)
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (input_details,) = interpreter.get_input_details()
    (output_details,) = interpreter.get_output_details()

    def classify(images):
        shape = (len(images), *output_details["shape"][1:])
        probabilities = np.empty(shape, "float32")
        for number, image in enumerate(images):
            interpreter.set_tensor(input_details["index"], image[np.newaxis])
            interpreter.invoke()
            (probabilities[number],) = interpreter.get_tensor(
                output_details["index"]
            )
        return probabilities

    return {
        "prepared": classify,
        "image_bytes": functools.partial(
            preprocessing.classify_files, classify, metadata
        ),
    }


def _check_checksum(content):
    """Raises a `ValueError` if what stands before the metadata has changed.

    The interpreter says so of most damaged files, but dies of some.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        # Files of earlier versions have none.
        if _CHECKSUM_FILE not in archive.namelist():
            return
        expected = archive.read(_CHECKSUM_FILE).decode()
        size = archive.getinfo(_METADATA_FILE).header_offset
    if hashlib.sha256(content[:size]).hexdigest() != expected:
        raise ValueError("the checksum of the model is another")


def list_operators(content: bytes) -> list[str]:
    """Returns the sorted names of the operators in a TensorFlow Lite file.

    Args:
        content: the contents of the file.

    Returns:
        Names such as `"CONV_2D"`; `"CUSTOM:<name>"` if not built in.
    """
    model = _parse(content)
    return sorted({_get_name(code) for code in model.operatorCodes})


def count_operators(path: pathlib.Path) -> dict[str, dict[str, int]]:
    """Counts the operators of a TensorFlow Lite file.

    Returns:
        `"all"` and `"float"`, each from names of operators to how many there
        are. Those are in `"float"` that read or write a float tensor, but for
        QUANTIZE and DEQUANTIZE, which stand between floats and integers.
    """
    from ai_edge_litert import schema_py_generated as schema

    floats = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)
    conversions = ("QUANTIZE", "DEQUANTIZE")
    counts = {"all": collections.Counter(), "float": collections.Counter()}
    model = _parse(path.read_bytes())
    for graph in model.subgraphs:
        for operator in graph.operators:
            name = _get_name(model.operatorCodes[operator.opcodeIndex])
            counts["all"][name] += 1
            # -1 stands for an input that is left out.
            types = {
                graph.tensors[tensor].type
                for tensor in (*operator.inputs, *operator.outputs)
                if tensor >= 0
            }
            if types & set(floats) and name not in conversions:
                counts["float"][name] += 1
    return {kind: dict(count) for kind, count in counts.items()}


def _save_frozen(model, folder):
    """Saves a model of one image whose weights are constants.

    The converter fuses constants into operators, and is ten times as fast as
    with variables. Only from a SavedModel does it take the names of the input
    and the output.
    """
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    spec = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, "images")

    @tf.function(input_signature=[spec], autograph=False)
    def classify(images):
        return model(images, training=False)

    frozen = convert_to_constants.convert_variables_to_constants_v2(
        classify.get_concrete_function()
    )

    @tf.function(input_signature=[spec], autograph=False)
    def serve(images):
        (probabilities,) = frozen(images)
        return {"probabilities": probabilities}

    module = tf.Module()
    module.serve = serve
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, folder, serve, options)


def _parse(content):
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(content, 0)


def _get_name(operator_code):
    from ai_edge_litert import schema_py_generated as schema

    if operator_code.customCode is not None:
        return f"CUSTOM:{operator_code.customCode.decode()}"
    # Codes below 127 are in the older of the two fields.
    wanted = max(operator_code.builtinCode, operator_code.deprecatedBuiltinCode)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    return names[wanted]
