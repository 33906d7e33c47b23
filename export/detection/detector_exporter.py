"""Writes and checks a detector beside its place, then moves it there whole."""

import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from export.detection.detector_saved_model import prepare_image
from export.detection.detector_saved_model import write_detector
from export.detection.trained_detector import Detector
from export.example_images import Examples
from export.example_images import make_examples
from export.example_images import read_folder
from export.export_folder import list_files
from export.export_folder import prepare_export_dir
from export.export_folder import replacing_export
from export.exported_model import REPORT_FILE
from export.exporter import VerificationError
from export.exporter import describe_end
from export.exporter import run_alone
from trainers import run_folder
from trainers.data.decoding import decode_image

SAVED_MODEL_FOLDER = "saved_model"
_MOST_IMAGES = 8
# The order of sums decides which of two boxes remains that are as good.
_MOST_MISSING = 0.01


def read_examples(
    detector: Detector, verify_images: str | None = None
) -> Examples:
    """Reads images to compare an export on.

    Args:
        detector: what is exported.
        verify_images: folder of images; without it, the first of the run's
            validation records are taken, or patterns if there are none.

    Raises:
        UserError: If the folder holds none, or one that cannot be decoded.
    """
    if verify_images:
        images = read_folder(verify_images, 3, "verify_images", _MOST_IMAGES)
        return Examples(f"{len(images)} images in {verify_images}", images)
    images = _read_records(detector.validation_records)
    if images:
        return Examples(f"{len(images)} validation images", images)
    images = make_examples(max(detector.image_size), 3)
    return Examples("noise and smooth patterns", list(images[4:12]))


def export_detector(
    detector: Detector, export_dir: pathlib.Path, examples: Examples
) -> str:
    """Writes a SavedModel and export_report.json.

    An export that is there already is replaced once the new one has passed
    its check, and stays as it is if anything fails.

    Args:
        detector: what to export.
        export_dir: folder to make or, if it holds an export, to replace.
        examples: what to compare with the detector on.

    Returns:
        What was compared, in words.

    Raises:
        UserError: If the folder holds something else or cannot be made, or if
            another process exports to it.
        VerificationError: If the export and the detector disagree.
    """
    prepare_export_dir(export_dir)
    with replacing_export(export_dir) as new:
        folder = new / SAVED_MODEL_FOLDER
        write_detector(detector, folder)
        report = _verify(detector, folder, examples)
        report |= detector.describe() | {"examples": examples.source}
        report["files"] = list_files(new)
        run_folder.write_json(new / REPORT_FILE, report)
    return _format_report(report)


def _read_records(pattern):
    files = tf.io.gfile.glob(pattern) if pattern else []
    features = {"image/encoded": tf.io.FixedLenFeature((), tf.string)}
    return [
        decode_image(
            tf.io.parse_single_example(record, features)["image/encoded"], 3
        ).numpy()
        for record in tf.data.TFRecordDataset(files).take(_MOST_IMAGES)
    ]


def _verify(detector, folder, examples):
    """Returns what `export.detection.verify_detector` reports."""
    with tempfile.TemporaryDirectory() as temporary:
        example_dir = pathlib.Path(temporary)
        for number, image in enumerate(examples.images):
            # PNG is lossless.
            contents = tf.io.encode_png(image).numpy()
            (example_dir / f"{number:06d}.png").write_bytes(contents)
            np.savez(
                example_dir / f"{number:06d}.npz", **detect(detector, image)
            )
        report_path = example_dir / "report.json"
        # A process that never knew the network sees only what was written.
        result = run_alone(
            "export.detection.verify_detector",
            f"--saved_model={folder}",
            f"--examples={example_dir}",
            f"--report={report_path}",
        )
        if result.returncode:
            raise VerificationError(describe_end(result))
        report = run_folder.read_json(report_path)
    if report["missing"] > _MOST_MISSING * report["detections"]:
        raise VerificationError(
            "Its detections must be those of the run's detector. Received: "
            f"{report['missing']} others of {report['detections']}"
        )
    return report


def detect(detector: Detector, image: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what a detector finds in an image.

    Args:
        detector: the detector.
        image: uint8, `(height, width, 3)`.

    Returns:
        `boxes`, float32 `(detections, 4)`: ymin, xmin, ymax and xmax in pixels
        of the image; `scores`, float32, and `classes`, int32 from 1, both
        `(detections,)`; and `masks`, float32 `(detections, 28, 28)`.
    """
    prepared, image_info = prepare_image(image, detector.image_size)
    outputs = detector.model(
        prepared[tf.newaxis], image_shape=image_info[1:2], training=False
    )
    count = int(outputs["num_detections"][0])
    boxes, scores, classes, masks = (
        outputs[f"detection_{name}"][0, :count].numpy()
        for name in ("boxes", "scores", "classes", "masks")
    )
    vertical, horizontal = image_info[2].numpy()
    scale = np.array([vertical, horizontal] * 2)
    return {
        "boxes": boxes / scale,
        "scores": scores,
        "classes": classes,
        "masks": masks,
    }


def _format_report(report):
    if not report["detections"]:
        return (
            f"saved_model/, which as the run's detector finds nothing in "
            f"{report['examples']}; train longer or lower --min_score."
        )
    differences = report["max_differences"]
    return (
        f"saved_model/, compared with the run's detector on "
        f"{report['examples']}: {report['detections'] // 2} detections, whose "
        f"boxes differ by at most {differences['boxes']:.1e} pixels, scores by "
        f"{differences['scores']:.1e} and masks by {differences['masks']:.1e}; "
        f"{report['seconds']:.3g} seconds per image."
    )
