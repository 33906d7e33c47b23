"""Writes and checks an export beside its place, then moves it there whole."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from export.formats import FORMATS
from export.trained_classifier import Classifier
from trainers.data.preprocessing import prepare_image
from trainers.program import UserError

_REPORT_FILE = "verification.json"


class VerificationError(Exception):
    """What was written does not do what the Keras model does."""


def export_classifier(classifier: Classifier, export_dir: pathlib.Path) -> None:
    """Writes a classifier in each of `FORMATS`, and verification.json.

    An export that is there already is replaced once the new one has passed
    its check, and stays as it is if anything fails.

    Args:
        classifier: what to export.
        export_dir: folder to make or, if it holds an export, to replace.

    Raises:
        UserError: If the folder holds something else or cannot be made.
        VerificationError: If the export and Keras disagree.
    """
    check_export_dir(export_dir)
    with _replacing_folder(export_dir) as new:
        for model_format in FORMATS:
            model_format.write(classifier, new / model_format.file_name)
        _verify(classifier, new)


def check_export_dir(export_dir: pathlib.Path) -> None:
    """Raises a `UserError` if replacing a folder would lose something."""
    if not export_dir.exists():
        return
    if not export_dir.is_dir():
        raise UserError(
            f"--export_dir must be a folder. Received: {export_dir}"
        )
    ours = {model_format.file_name for model_format in FORMATS}
    others = {path.name for path in export_dir.iterdir()}
    others -= {*ours, _REPORT_FILE}
    if others:
        raise UserError(
            "--export_dir must be new, empty or an earlier export, because it "
            f"is replaced. Received: {export_dir}, which holds "
            f"{', '.join(sorted(others))}"
        )


def read_report(export_dir: pathlib.Path) -> dict[str, dict]:
    """Returns how an export that has passed its check differs from Keras.

    Args:
        export_dir: folder of the export.

    Returns:
        For each way to run it the `file` in the folder, `max_difference`
        between probabilities, and `top1_agreement`, the share of examples
        with the same most likely class.
    """
    return json.loads((export_dir / _REPORT_FILE).read_text())


def format_table(export_dir: pathlib.Path) -> str:
    """Returns a table of an export's files, sizes and differences.

    Args:
        export_dir: an export that has passed its check.
    """
    lines = [
        f"{'':26}{'size':>9}{'max |difference|':>19}{'same top class':>17}"
    ]
    for name, row in read_report(export_dir).items():
        size = _measure_size(export_dir / row["file"])
        lines.append(
            f"{name:26}{size / 1e6:6.2f} MB"
            f"{row['max_difference']:19.1e}{row['top1_agreement']:17.0%}"
        )
    return "\n".join(lines)


def make_examples(image_size: int, channels: int) -> np.ndarray:
    """Makes images that look unlike each other to a network.

    Args:
        image_size: the network's input size. The images are larger and not
            square, so that cropping and resizing are tested too.
        channels: number of channels.

    Returns:
        uint8, `(16, height, width, channels)`: noise, then smooth patterns.
    """
    random = np.random.default_rng(0)
    height, width = image_size * 5 // 4 + 1, image_size * 3 // 2 + 1
    noise = random.integers(0, 256, (8, height, width, channels))
    coarse = random.uniform(-64, 320, (8, 4, 4, channels))
    smooth = tf.image.resize(coarse, (height, width), method="bicubic")
    return np.concatenate([noise, np.clip(smooth, 0, 255)]).astype("uint8")


def compute_expected(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """Returns what Keras says of uint8 images: `(examples, classes)`."""
    prepared = [
        prepare_image(image, classifier.image_size, classifier.crop_fraction)
        for image in images
    ]
    return classifier.model.predict(np.stack(prepared), verbose=0)


def _verify(classifier, export_dir):
    images = make_examples(classifier.image_size, classifier.channels)
    with tempfile.TemporaryDirectory() as folder:
        examples = pathlib.Path(folder) / "examples.npz"
        np.savez(
            examples,
            images=images,
            probabilities=compute_expected(classifier, images),
        )
        # A process that never knew the model sees only what was written.
        result = subprocess.run(
            [
                sys.executable,
                "-m",
                "export.verify_export",
                f"--export_dir={export_dir}",
                f"--examples={examples}",
                f"--report={export_dir / _REPORT_FILE}",
            ],
            # Float32 on a GPU is rounded to TensorFloat-32.
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
        )
    if result.returncode:
        raise VerificationError(f"{result.stdout}{result.stderr}".strip())


@contextlib.contextmanager
def _replacing_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a new folder that replaces `folder` when the block ends.

    Whatever the block raises, the old folder stays as it is.
    """
    # Beside the old one, hence on the same disk, so that it can be renamed.
    new = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    try:
        new.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--export_dir cannot be made: {error}") from error
    try:
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)


def _measure_size(path):
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
