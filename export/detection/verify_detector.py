r"""Checks an exported detector, beside what the restored one detected.

    python -m export.detection.verify_detector --saved_model=FOLDER \
        --examples=FOLDER --report=FILE.json

`export.export_detector` runs this in a process of its own, in which neither
the network nor `lambda_keras` nor `official` is imported, as on a machine that
only uses the export. The examples are images, and beside each an .npz file
with what the restored detector says of it. Writes to FILE.json what was
compared.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("export.detection.verify_detector")

import json
import pathlib
import sys
import time

import numpy as np
import tensorflow as tf
from absl import flags

from trainers.files import replacing
from trainers.program import run_program

_SAVED_MODEL = flags.DEFINE_string(
    "saved_model", None, "Folder of a SavedModel.", required=True
)
_EXAMPLES = flags.DEFINE_string(
    "examples", None, "Folder of images and detections.", required=True
)
_REPORT = flags.DEFINE_string(
    "report", None, "JSON file to write.", required=True
)

# Of the longer side of an image, of a score and of a share in a mask. In
# another graph, sums have another order.
_BOX_TOLERANCE, _SCORE_TOLERANCE, _MASK_TOLERANCE = 1e-3, 1e-3, 1e-2


def compare_detections(
    found: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    image_size: tuple[int, int],
) -> tuple[int, dict[str, float]]:
    """Compares what two detectors say of an image.

    Args:
        found: `boxes`, `(detections, 4)`, `scores`, `classes` and `masks`.
        expected: the same.
        image_size: height and width in pixels.

    Returns:
        How many of those expected were not found, with the same class and all
        else within the tolerances; and the largest differences of the others.
    """
    missing = 0
    differences = {"boxes": 0.0, "scores": 0.0, "masks": 0.0}
    tolerances = {
        "boxes": _BOX_TOLERANCE * max(image_size),
        "scores": _SCORE_TOLERANCE,
        "masks": _MASK_TOLERANCE,
    }
    for number, class_number in enumerate(expected["classes"]):
        candidates = np.flatnonzero(found["classes"] == class_number)
        offsets = {
            name: np.array(
                [
                    np.abs(found[name][n] - expected[name][number]).max()
                    for n in candidates
                ]
            )
            for name in differences
        }
        fits = np.logical_and.reduce(
            [offsets[name] <= tolerances[name] for name in differences]
        )
        if not fits.any():
            missing += 1
            continue
        best = np.flatnonzero(fits)[offsets["boxes"][fits].argmin()]
        for name, offset in offsets.items():
            differences[name] = max(differences[name], float(offset[best]))
    return missing, differences


def main(argv: list[str]) -> None:
    del argv
    folder = pathlib.Path(_EXAMPLES.value)
    files = [path.read_bytes() for path in sorted(folder.glob("*.png"))]
    model = tf.saved_model.load(_SAVED_MODEL.value)
    detect = model.signatures["image_bytes"]
    missing, count, seconds = 0, 0, []
    largest = {"boxes": 0.0, "scores": 0.0, "masks": 0.0}
    for number, file in enumerate(files):
        begin = time.perf_counter()
        outputs = detect(tf.constant([file]))
        seconds.append(time.perf_counter() - begin)
        outputs = {name: value.numpy()[0] for name, value in outputs.items()}
        found = {
            name: outputs[name][: outputs["num_detections"]]
            for name in ("boxes", "scores", "classes", "masks")
        }
        with np.load(folder / f"{number:06d}.npz") as arrays:
            expected = dict(arrays)
        image_size = tuple(outputs["image_sizes"])
        # Neither may have what the other has not.
        for some, others in ((found, expected), (expected, found)):
            not_found, differences = compare_detections(
                some, others, image_size
            )
            missing += not_found
            count += len(others["scores"])
            largest = {
                name: max(largest[name], differences[name]) for name in largest
            }
    ours = {"lambda_keras", "official"} & sys.modules.keys()
    report = {
        "detections": count,
        "missing": missing,
        "max_differences": largest,
        # The first image has the graph compiled.
        "seconds": min(seconds),
        "imported": sorted(ours),
    }
    with replacing(_REPORT.value) as temporary:
        temporary.write_text(json.dumps(report, indent=2))


def run() -> None:
    run_program(main)
