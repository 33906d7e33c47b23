r"""Exports a trained classifier as a SavedModel and a TensorFlow Lite file.

    python -m export.export_model --model=MODEL_DIR/best.keras

writes MODEL_DIR/export/saved_model and MODEL_DIR/export/model.tflite, both in
float32 and with probabilities as output. Class names and the evaluation's crop
are taken from MODEL_DIR/metadata.json. Everything is compared with the Keras
model in a fresh process before an earlier export is replaced. Takes about half
a minute on two cores for a small network, and ends in a table of the files,
their sizes and their differences from Keras.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("export.export_model")

import pathlib
import sys

import tensorflow as tf
from absl import flags
from absl import logging

from export.exporter import VerificationError
from export.exporter import check_export_dir
from export.exporter import export_classifier
from export.exporter import format_table
from export.formats.tflite import list_operators
from export.trained_classifier import load_classifier
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_MODEL = flags.DEFINE_string(
    "model", None, "The .keras file to export. Required."
)
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir",
    None,
    "Folder to write. Defaults to the folder `export` beside the model.",
)


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    # Float32 on a GPU is rounded to TensorFloat-32, which blurs the check.
    tf.config.set_visible_devices([], "GPU")
    refuse_arguments(argv)
    if not _MODEL.value:
        raise UserError("--model is missing: the .keras file to export.")
    model_path = pathlib.Path(_MODEL.value).resolve()
    export_dir = model_path.with_name("export")
    if _EXPORT_DIR.value:
        export_dir = pathlib.Path(_EXPORT_DIR.value).resolve()
    check_export_dir(export_dir)
    try:
        export_classifier(load_classifier(model_path), export_dir)
    except VerificationError as error:
        sys.exit(f"{error}\nError: The check failed; nothing was replaced.")
    operators = list_operators((export_dir / "model.tflite").read_bytes())
    print(f"\nExported to {export_dir}, probabilities compared with Keras:\n")
    print(format_table(export_dir))
    print(f"\nTensorFlow Lite operators, all built in: {', '.join(operators)}")


def run() -> None:
    run_program(main)
