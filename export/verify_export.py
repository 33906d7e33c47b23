r"""Checks an export against probabilities that Keras computed.

    python -m export.verify_export --export_dir=EXPORT_DIR \
        --examples=FILE.npz --report=FILE.json

`export.export_model` runs this in a process of its own, in which neither the
Keras model nor `lambda_keras` exists, as on the machine that will use the
export. FILE.npz holds `images`, uint8 `(examples, height, width, channels)`,
and `probabilities`, `(examples, classes)`. Prints the differences, writes them
to FILE.json, and fails if any is above 1e-4. Takes about ten seconds.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("export.verify_export")

import json
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import flags

from export.formats import FORMATS
from trainers.files import replacing
from trainers.program import run_program

_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Folder of an export.", required=True
)
_EXAMPLES = flags.DEFINE_string(
    "examples", None, "npz file with images and probabilities.", required=True
)
_REPORT = flags.DEFINE_string(
    "report", None, "JSON file of the differences, to write.", required=True
)

# Float32 sums in another order differ by some 1e-6 in a probability; a wrong
# layer, weight, crop or pixel range, or half precision, by over 1e-3. A
# difference of 1e-4 is below what `export.predict` prints.
TOLERANCE = 1e-4


def compute_probabilities(
    export_dir: pathlib.Path, images: np.ndarray
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Runs everything that an export offers on the same images.

    Args:
        export_dir: folder with a file or folder of each format.
        images: uint8, `(examples, height, width, channels)`.

    Yields:
        For each function of each format its name, the name of the file and
        probabilities `(examples, classes)`.
    """
    examples = {
        "images": images,
        # PNG is lossless.
        "image_bytes": [tf.io.encode_png(image).numpy() for image in images],
    }
    for model_format in FORMATS:
        file_name = model_format.file_name
        functions = model_format.load(export_dir / file_name)
        for kind, run in functions.items():
            is_only = len(functions) == 1
            name = file_name if is_only else f"{file_name}, {kind}"
            yield name, file_name, run(examples[kind])


def compare(probabilities: np.ndarray, expected: np.ndarray) -> dict:
    """Compares probabilities.

    Args:
        probabilities: `(examples, classes)`.
        expected: the same shape.

    Returns:
        `max_difference`, and `top1_agreement`: the share of examples with the
        same most likely class.
    """
    agrees = probabilities.argmax(axis=-1) == expected.argmax(axis=-1)
    return {
        "max_difference": float(np.abs(probabilities - expected).max()),
        "top1_agreement": float(agrees.mean()),
    }


def main(argv: list[str]) -> None:
    del argv
    with np.load(_EXAMPLES.value) as examples:
        images, expected = examples["images"], examples["probabilities"]
    report = {
        name: {"file": file_name, **compare(probabilities, expected)}
        for name, file_name, probabilities in compute_probabilities(
            pathlib.Path(_EXPORT_DIR.value), images
        )
    }
    with replacing(_REPORT.value) as temporary:
        temporary.write_text(json.dumps(report, indent=2))
    for name, row in report.items():
        print(f"{name:26}{row['max_difference']:.1e}")
    # So written, a NaN fails too.
    failed = [
        name
        for name, row in report.items()
        if not row["max_difference"] <= TOLERANCE
    ]
    if failed:
        sys.exit(
            f"Error: The probabilities must be within {TOLERANCE:g} of "
            f"those of Keras. Received others from: {'; '.join(failed)}"
        )


def run() -> None:
    run_program(main)
