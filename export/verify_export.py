r"""Checks an export against probabilities that Keras computed.

    python -m export.verify_export --export_dir=EXPORT_DIR --examples=FILE.npz

`export.export_model` runs this in a process of its own, in which neither the
Keras model nor `lambda_keras` exists, as on the machine that will use the
export. FILE.npz holds `images`, uint8 `(examples, height, width, channels)`,
and `probabilities`, `(examples, classes)`. Prints the differences, writes them
to EXPORT_DIR/verification.json, and fails if any is above 1e-4. Takes about
ten seconds.
"""

import json
import pathlib
import sys

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

from export import predict

_EXPORT_DIR = flags.DEFINE_string(
    "export_dir",
    None,
    "Folder with saved_model and model.tflite.",
    required=True,
)
_EXAMPLES = flags.DEFINE_string(
    "examples", None, "npz file with images and probabilities.", required=True
)

# Float32 sums in another order differ by some 1e-6 in a probability; a wrong
# layer, weight, crop or pixel range, or half precision, by over 1e-3. A
# difference of 1e-4 is below what `export.predict` prints.
TOLERANCE = 1e-4


def compute_probabilities(
    export_dir: pathlib.Path, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Runs everything that an export offers on the same images.

    Args:
        export_dir: folder with saved_model and model.tflite.
        images: uint8, `(examples, height, width, channels)`.

    Returns:
        Probabilities `(examples, classes)` of each signature and file.
    """
    # PNG is lossless.
    files = [tf.io.encode_png(image).numpy() for image in images]
    saved_model = tf.saved_model.load(str(export_dir / "saved_model"))
    on_images = saved_model.signatures["serving_default"]
    on_bytes = saved_model.signatures["image_bytes"]
    tflite_path = export_dir / "model.tflite"
    tflite = predict.load_model(tflite_path, predict.read_metadata(tflite_path))
    return {
        "saved_model, images": on_images(tf.constant(images, tf.float32))[
            "probabilities"
        ].numpy(),
        "saved_model, image_bytes": on_bytes(tf.constant(files))[
            "probabilities"
        ].numpy(),
        "model.tflite": np.stack([tflite(contents) for contents in files]),
    }


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
    export_dir = pathlib.Path(_EXPORT_DIR.value)
    with np.load(_EXAMPLES.value) as examples:
        images, expected = examples["images"], examples["probabilities"]
    report = {
        name: compare(probabilities, expected)
        for name, probabilities in compute_probabilities(
            export_dir, images
        ).items()
    }
    (export_dir / "verification.json").write_text(json.dumps(report, indent=2))
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
    app.run(main)


if __name__ == "__main__":
    run()
