"""Writes and checks an export beside its place, then moves it there whole."""

import datetime
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from export.example_images import Examples
from export.example_images import make_examples
from export.export_folder import HTML_FILE
from export.export_folder import list_files
from export.export_folder import prepare_export_dir
from export.export_folder import replacing_export
from export.exported_model import REPORT_FILE
from export.formats import FORMATS
from export.html_report import build_html
from export.html_report import count_float
from export.html_report import format_share
from export.trained_classifier import Classifier
from trainers import run_folder
from trainers.data.preprocessing import prepare_image
from trainers.program import UserError

# What a user may call activations of 16 bits.
_INT16_NAMES = ("int16", "16x8")


class VerificationError(Exception):
    """What was written does not do what the Keras model does."""


def export_classifier(
    classifier: Classifier,
    export_dir: pathlib.Path,
    *,
    formats: Sequence[str] | None = None,
    representative_images: Sequence[np.ndarray] = (),
    examples: Examples | None = None,
    min_agreement: float = 0.99,
    title: str | None = None,
) -> None:
    """Writes a classifier in formats, export_report.json and .html.

    An export that is there already is replaced once the new one has passed
    its check, and stays as it is if anything fails.

    Args:
        classifier: what to export.
        export_dir: folder to make or, if it holds an export, to replace.
        formats: names of `FORMATS`, each of which must succeed. All without
            it; what cannot be made, and what computes with rounded weights
            and agrees with Keras too seldom, is then left out, and the report
            says why.
        representative_images: uint8, `(height, width, channels)` of any size,
            to find the ranges of integers with.
        examples: what to compare with Keras on. Noise and patterns without it.
        min_agreement: the least share of examples with the same most likely
            class as in Keras.
        title: what the report calls the model. Its own name without it.

    Raises:
        UserError: If the folder holds something else or cannot be made, if
            another process exports to it, or if one of `formats` cannot be.
        VerificationError: If the export and Keras disagree.
    """
    prepare_export_dir(export_dir)
    left_out = find_unavailable(
        [f.name for f in FORMATS] if formats is None else formats,
        has_images=bool(representative_images),
    )
    if formats is not None:
        _refuse(left_out)
    if examples is None:
        made = make_examples(classifier.image_size, classifier.channels)
        examples = Examples("noise and smooth patterns", list(made))
    with replacing_export(export_dir) as new:
        left_out |= _write(
            classifier,
            [
                f.name
                for f in FORMATS
                if f.name not in left_out
                and (formats is None or f.name in formats)
            ],
            new,
            _prepare(classifier, representative_images),
        )
        if formats is not None or len(left_out) == len(FORMATS):
            _refuse(left_out)
        expected = compute_expected(classifier, examples.images)
        report = _verify(new, examples, expected, min_agreement)
        failures = report.pop("failures")
        for model_format in FORMATS:
            name = model_format.name
            is_dispensable = formats is None and model_format.is_approximate
            if is_dispensable and name in failures:
                # The others are right without it.
                left_out[name] = failures.pop(name)
                del report["formats"][name]
                (new / model_format.file_name).unlink()
        if failures:
            raise VerificationError(
                "; ".join(f"{name}: {why}" for name, why in failures.items())
            )
        report |= {
            "left_out": left_out,
            "model": title or classifier.model.name,
            "date": _tell_time(),
        }
        page = build_html(report, classifier.class_names, examples, expected)
        # A name may hold half of a character.
        (new / HTML_FILE).write_bytes(page.encode(errors="xmlcharrefreplace"))
        report["files"] = list_files(new)
        run_folder.write_json(new / REPORT_FILE, report)


def find_unavailable(
    names: Sequence[str], *, has_images: bool
) -> dict[str, str]:
    """Finds formats that cannot be made here.

    Args:
        names: names of `FORMATS`.
        has_images: whether there are representative images.

    Returns:
        For each of those formats the reason.

    Raises:
        UserError: If there is no such format.
    """
    known = {model_format.name: model_format for model_format in FORMATS}
    unknown = [name for name in names if name not in known]
    for name in unknown:
        if _has_int16(name):
            raise UserError(
                "--formats must not be of activations of 16 bits: such a file "
                "is converted but silently wrong, because the comparison in "
                "the content lambdas has no such kind; take tflite_int8. "
                f"Received: {name}"
            )
    if unknown or not names:
        raise UserError(
            f"--formats must be among {', '.join(known)}. "
            f"Received: {', '.join(unknown) or 'none'}"
        )
    reasons = {}
    for name in names:
        missing = [
            package
            for package in known[name].packages
            if not importlib.util.find_spec(package)
        ]
        if missing:
            extra = "onnx" if name == "onnx" else "export"
            reasons[name] = (
                f"it needs {', '.join(missing)}; `pip install "
                f"'lambda-keras[{extra}]'`"
            )
        elif known[name].needs_images and not has_images:
            reasons[name] = (
                "it needs images such as the network will see; give a folder "
                "with --representative_images"
            )
    return reasons


def read_report(export_dir: pathlib.Path) -> dict:
    """Returns how an export that has passed its check differs from Keras.

    Args:
        export_dir: folder of the export.

    Returns:
        `"examples"`, what it was compared on; the `"accuracy"` of Keras, if
        the classes of the examples are known; `"formats"`, what
        `verify_export.measure_format` says of each; in `"left_out"` why others
        were not made; `"model"`, its name; `"date"`, in ISO 8601; and
        `"files"`, the SHA-256 of each file but the report.
    """
    return json.loads((export_dir / REPORT_FILE).read_text())


def format_table(export_dir: pathlib.Path) -> str:
    """Returns a table of an export's files, and what it was compared on.

    Args:
        export_dir: an export that has passed its check.
    """
    report = read_report(export_dir)
    lines = [
        f"{'':22}{'size':>9}{'difference':>12}{'same class':>12}"
        f"{'accuracy':>10}{'float':>9}{'1 image':>10}{'8 images':>11}"
    ]
    for row in report["formats"].values():
        accuracy = format_share(row["accuracy"])
        one, eight = row["latency_ms"].values()
        lines.append(
            f"{row['file']:22}{row['size'] / 1e6:6.2f} MB"
            f"{row['max_difference']:12.1e}"
            f"{row['top1_agreement']:12.2%}{accuracy:>10}"
            f"{count_float(row):>9}{one:7.2f} ms{eight:8.2f} ms"
        )
    compared = f"Compared with Keras on {report['examples']}"
    if report["accuracy"] is not None:
        accuracy = format_share(report["accuracy"])
        compared += f", of which Keras gets {accuracy} right"
    lines += [
        "",
        f"{compared}.",
        "float: operators that compute in it, of all.",
    ]
    for name, reason in report["left_out"].items():
        lines.append(f"Left out: {name}: {reason}")
    return "\n".join(lines)


def compute_expected(
    classifier: Classifier, images: Sequence[np.ndarray]
) -> np.ndarray:
    """Returns what Keras says of uint8 images: `(examples, classes)`."""
    return classifier.model.predict(_prepare(classifier, images), verbose=0)


def _has_int16(name):
    letters = re.sub("[^a-z0-9]", "", name.lower())
    return any(part in letters for part in _INT16_NAMES)


def _tell_time():
    now = datetime.datetime.now(datetime.UTC)
    return now.isoformat(timespec="seconds")


def _prepare(classifier, images):
    if not len(images):
        return None
    return np.stack(
        [
            prepare_image(
                image, classifier.image_size, classifier.crop_fraction
            )
            for image in images
        ]
    )


def _refuse(left_out):
    for name, reason in left_out.items():
        raise UserError(f"{name} cannot be made: {reason}. Leave it out.")


def _write(classifier, names, export_dir, images):
    """Writes formats; returns the reasons for those that cannot be."""
    files = {f.name: export_dir / f.file_name for f in FORMATS}
    left_out = {}
    with tempfile.TemporaryDirectory() as folder:
        model_path = pathlib.Path(folder, "model.keras")
        classifier.model.save(model_path)
        run_folder.write_json(
            model_path.with_name(run_folder.METADATA_FILE),
            classifier.describe(),
        )
        arguments = [f"--model={model_path}", f"--export_dir={export_dir}"]
        if images is not None:
            image_path = pathlib.Path(folder, "images.npy")
            np.save(image_path, images)
            arguments.append(f"--images={image_path}")
        while names:
            result = run_alone(
                "export.write_formats",
                *arguments,
                f"--formats={','.join(names)}",
            )
            names = [name for name in names if not files[name].exists()]
            if names:
                # Those after it get another process.
                left_out[names.pop(0)] = describe_end(result)
    for path in export_dir.glob("unfinished_*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return left_out


def _verify(export_dir, examples, expected, min_agreement):
    """Returns what `export.verify_export` reports."""
    with tempfile.TemporaryDirectory() as folder:
        write_examples(pathlib.Path(folder), examples, expected)
        # A process that never knew the model sees only what was written.
        result = run_alone(
            "export.verify_export",
            f"--export_dir={export_dir}",
            f"--examples={folder}",
            f"--min_agreement={min_agreement}",
            f"--report={export_dir / REPORT_FILE}",
        )
    if result.returncode:
        raise VerificationError(describe_end(result))
    return read_report(export_dir)


def write_examples(
    folder: pathlib.Path, examples: Examples, expected: np.ndarray
) -> None:
    """Writes what `export.verify_export` reads.

    Args:
        folder: folder to write to.
        examples: images, labels and what they are.
        expected: `(examples, classes)`, the probabilities by Keras.
    """
    for number, image in enumerate(examples.images):
        # PNG is lossless.
        content = tf.io.encode_png(image).numpy()
        (folder / f"{number:06d}.png").write_bytes(content)
    arrays = {"probabilities": expected}
    if examples.labels is not None:
        arrays["labels"] = examples.labels
    np.savez(folder / "expected.npz", source=examples.source, **arrays)


def run_alone(
    module_name: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Runs a program of this project in a process of its own, to its end."""
    # A process that dies leaves its temporary files.
    with tempfile.TemporaryDirectory() as folder:
        return run_to_end(
            [sys.executable, "-m", module_name, *arguments],
            # Float32 on a GPU is rounded to TensorFloat-32.
            {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": folder},
        )


def run_to_end(
    command: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Runs a command, and captures its text.

    If this process is interrupted, that one is dead before anything else
    happens; `subprocess.run` would kill it, but not wait.
    """
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            output, errors = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
    return subprocess.CompletedProcess(
        command, process.returncode, output, errors
    )


def describe_end(result: subprocess.CompletedProcess[str]) -> str:
    """Returns in one line why a process failed."""
    if result.returncode < 0:
        name = signal.Signals(-result.returncode).name
        return f"its process died of {name}"
    *_, line = ["it failed and said nothing", *result.stderr.splitlines()]
    return textwrap.shorten(line.removeprefix("Error: "), 300)
