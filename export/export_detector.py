r"""Exports a trained detector as a SavedModel of image files.

    python -m export.export_detector --model_dir=MODEL_DIR

writes to MODEL_DIR/export/saved_model the detector of the last checkpoint that
`trainers.train_detector` left there. It takes the contents of image files of
any size and returns boxes in their pixels, scores, classes and masks, and
carries the names of the classes; `export.detect` runs it.

It is compared with the restored detector in a fresh process before an earlier
export is replaced, on images of the run's validation records or of
--verify_images, or on patterns if there are neither.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("export.export_detector")

import pathlib
import sys

import tensorflow as tf
from absl import flags
from absl import logging

from export.export_folder import prepare_export_dir
from export.exporter import VerificationError
from trainers.detection.installation import check_installation
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "Folder of a run of trainers.train_detector. Required."
)
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Folder to write. Defaults to MODEL_DIR/export."
)
_MIN_SCORE = flags.DEFINE_float(
    "min_score",
    None,
    "Least score of what is detected. Defaults to the run's.",
    lower_bound=0,
    upper_bound=1,
)
_MAX_DETECTIONS = flags.DEFINE_integer(
    "max_detections",
    None,
    "Most detections of an image. Defaults to the run's.",
    lower_bound=1,
)
_VERIFY_IMAGES = flags.DEFINE_string(
    "verify_images",
    None,
    "Folder of images to compare with the run's detector on. Defaults to some "
    "of the run's validation records.",
)


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    # tf-models-official uses what is deprecated.
    tf.get_logger().setLevel("ERROR")
    # Float32 on a GPU is rounded to TensorFloat-32, which blurs the check.
    tf.config.set_visible_devices([], "GPU")
    refuse_arguments(argv)
    if not _MODEL_DIR.value:
        raise UserError("--model_dir is missing: the folder of a run.")
    check_installation()
    # They import tf-models-official, which takes seconds.
    from export.detection.detector_exporter import export_detector
    from export.detection.detector_exporter import read_examples
    from export.detection.trained_detector import load_detector

    model_dir = pathlib.Path(_MODEL_DIR.value).resolve()
    export_dir = model_dir / "export"
    if _EXPORT_DIR.value:
        export_dir = pathlib.Path(_EXPORT_DIR.value)
    # Where it is a link, what it leads to is replaced.
    export_dir = export_dir.resolve()
    prepare_export_dir(export_dir)
    detector = load_detector(
        model_dir,
        min_score=_MIN_SCORE.value,
        max_detections=_MAX_DETECTIONS.value,
    )
    examples = read_examples(detector, _VERIFY_IMAGES.value)
    try:
        report = export_detector(detector, export_dir, examples)
    except VerificationError as error:
        sys.exit(f"Error: The check failed; nothing was replaced. {error}")
    print(f"Exported to {export_dir}:\n\n{report}")


def run() -> None:
    run_program(main)
