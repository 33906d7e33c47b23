r"""Exports a trained classifier as SavedModel, TensorFlow Lite and ONNX.

    python -m export.export_model --model=MODEL_DIR/best.keras

writes to MODEL_DIR/export, with probabilities as output: saved_model/ and
model.tflite in float32; model_float16.tflite; model_dynamic.tflite, with
weights of 8 bits; model_int8.tflite, which computes with integers; and
model.onnx, in float32. --formats chooses among them. Class names and the
evaluation's crop are taken from MODEL_DIR/metadata.json. The ranges of the
integers are found with training images of the data set that
MODEL_DIR/flags.json names, or with those of --representative_images.

Everything is compared with the Keras model in a fresh process before an
earlier export is replaced, on images that were held out of training, or on
noise where the data set is not known. Takes about a minute on two cores for a
small network, and ends in a table, which export_report.json has too, and
export_report.html with pictures.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("export.export_model")

import pathlib
import sys

import tensorflow as tf
from absl import flags
from absl import logging

from export.example_images import read_images
from export.export_folder import prepare_export_dir
from export.exporter import VerificationError
from export.exporter import export_classifier
from export.exporter import find_unavailable
from export.exporter import format_table
from export.formats import FORMATS
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
_FORMATS = flags.DEFINE_list(
    "formats",
    None,
    f"Formats to write, of {','.join(f.name for f in FORMATS)}. All without "
    "it, but those that cannot be made here.",
)
_REPRESENTATIVE_IMAGES = flags.DEFINE_string(
    "representative_images",
    None,
    "Folder of images to find the ranges of integers with. Defaults to the "
    "training images of the run's data set.",
)
_VERIFY_IMAGES = flags.DEFINE_string(
    "verify_images",
    None,
    "Folder of images to compare with Keras on. Defaults to images that were "
    "held out of the run's training.",
)
_MIN_AGREEMENT = flags.DEFINE_float(
    "min_agreement",
    0.99,
    "Least share of images of the same top class as in Keras. A format that "
    "has less is left out; if --formats names it, nothing is replaced.",
    lower_bound=0,
    upper_bound=1,
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
        export_dir = pathlib.Path(_EXPORT_DIR.value)
    # Where it is a link, what it leads to is replaced.
    export_dir = export_dir.resolve()
    prepare_export_dir(export_dir)
    if _FORMATS.value is not None:
        # A name that is wrong is said before the model is loaded.
        find_unavailable(_FORMATS.value, has_images=True)
    classifier = load_classifier(model_path)
    representative, examples = read_images(
        model_path,
        classifier,
        representative_images=_REPRESENTATIVE_IMAGES.value,
        verify_images=_VERIFY_IMAGES.value,
    )
    try:
        export_classifier(
            classifier,
            export_dir,
            formats=_FORMATS.value,
            representative_images=representative,
            examples=examples,
            min_agreement=_MIN_AGREEMENT.value,
            title=f"{model_path.parent.name}/{model_path.name}",
        )
    except VerificationError as error:
        sys.exit(f"Error: The check failed; nothing was replaced. {error}")
    print(f"\nExported to {export_dir}:\n")
    print(format_table(export_dir))


def run() -> None:
    run_program(main)
