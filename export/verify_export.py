r"""Checks and measures an export, beside probabilities that Keras computed.

    python -m export.verify_export --export_dir=EXPORT_DIR \
        --examples=FOLDER --report=FILE.json

`export.export_model` runs this in a process of its own, in which neither the
Keras model nor `lambda_keras` exists, as on the machine that will use the
export. Each format that is there runs in its own runtime. FOLDER is one that
`exporter.write_examples` wrote. Writes what was measured to FILE.json, and what
is wrong: that a format which computes with the weights of Keras differs by more
than 1e-4 in a probability, or that any has another most likely class too often.
Takes about ten seconds.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("export.verify_export")

import json
import pathlib
import statistics
import time
from collections.abc import Callable
from collections.abc import Iterator

import numpy as np
from absl import flags

from export import preprocessing
from export.formats import FORMATS
from export.formats import Format
from trainers.files import replacing
from trainers.program import run_program

_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Folder of an export.", required=True
)
_EXAMPLES = flags.DEFINE_string(
    "examples", None, "Folder of images and probabilities.", required=True
)
_MIN_AGREEMENT = flags.DEFINE_float(
    "min_agreement", 0.99, "Least share of examples of the same top class."
)
_REPORT = flags.DEFINE_string(
    "report", None, "JSON file of the differences, to write.", required=True
)

# Images that a SavedModel decodes at once.
_BATCH_SIZE = 16
# More do not change a median much; a large network takes seconds for some.
_MOST_RUNS, _MOST_SECONDS = 30, 2.0


def measure_format(
    model_format: Format,
    path: pathlib.Path,
    files: list[bytes],
    expected: np.ndarray,
    labels: np.ndarray | None,
) -> dict:
    """Runs what a format offers, and compares it with Keras.

    Args:
        model_format: the format.
        path: its file or folder.
        files: contents of image files, all of the same channels.
        expected: `(examples, classes)`, the probabilities by Keras.
        labels: `(examples,)`, the true classes, if they are known.

    Returns:
        `"file"`, its name; `"size"` in bytes; `"max_difference"`, the largest
        in a probability; `"top1_agreement"`, the share of examples with the
        same most likely class as in Keras; `"accuracy"`, the share with the
        true one, or `None`; `"disagreements"`, the number of each other
        example and its most likely class; `"operators"`, what
        `Format.count_operators` says; and `"latency_ms"`, medians in
        milliseconds, of one image and of eight. If it can be run in several
        ways, the worst of them.
    """
    metadata = model_format.read_metadata(path)
    images = [
        preprocessing.decode_image(file, metadata["channels"]) for file in files
    ]
    functions = model_format.load(path)
    classify_files = functions["image_bytes"]
    outputs = [
        np.concatenate(
            [
                classify_files(files[begin : begin + _BATCH_SIZE])[0]
                for begin in range(0, len(files), _BATCH_SIZE)
            ]
        )
    ]
    if "images" in functions:
        # One by one, because their sizes differ.
        outputs.append(
            np.concatenate([functions["images"](i[None]) for i in images])
        )
        prepared = [_prepare(image, metadata) for image in images]
        outputs.append(functions["prepared"](np.stack(prepared)))
    compared = [compare(output, expected, labels) for output in outputs]
    worst = min(compared, key=lambda row: row["top1_agreement"])
    return {
        "file": path.name,
        "size": _measure_size(path),
        "max_difference": max(row["max_difference"] for row in compared),
        "top1_agreement": worst["top1_agreement"],
        "accuracy": compared[0]["accuracy"],
        "disagreements": worst["disagreements"],
        "operators": model_format.count_operators
        and model_format.count_operators(path),
        "latency_ms": _measure_latency(functions, images[0], metadata),
    }


def compare(
    probabilities: np.ndarray, expected: np.ndarray, labels: np.ndarray | None
) -> dict:
    """Compares probabilities.

    Args:
        probabilities: `(examples, classes)`.
        expected: the same shape.
        labels: `(examples,)`, the true classes, if they are known.

    Returns:
        `max_difference`; `top1_agreement`, the share of examples with the same
        most likely class; `accuracy`, the share with the true one, or `None`;
        and `disagreements`, from the number of an example with another most
        likely class to this class.
    """
    classes = probabilities.argmax(axis=-1)
    is_same = classes == expected.argmax(axis=-1)
    is_known = labels is not None
    return {
        # A NaN remains one.
        "max_difference": float(np.abs(probabilities - expected).max()),
        "top1_agreement": float(is_same.mean()),
        "accuracy": float((classes == labels).mean()) if is_known else None,
        "disagreements": {
            int(number): int(classes[number])
            for number in np.flatnonzero(~is_same)
        },
    }


def find_failures(
    rows: dict[str, dict], min_agreement: float
) -> dict[str, str]:
    """Returns for each format that must not be used what is wrong.

    Args:
        rows: for each format what `measure_format` says.
        min_agreement: the least `"top1_agreement"`.
    """
    failures = {}
    for name, row in rows.items():
        (tolerance,) = (f.tolerance for f in FORMATS if f.name == name)
        # So written, a NaN fails too.
        if not row["max_difference"] <= tolerance:
            failures[name] = (
                f"it must be within {tolerance:g} of the probabilities of "
                f"Keras. Received: {row['max_difference']:.2g}"
            )
        elif not row["top1_agreement"] >= min_agreement:
            failures[name] = (
                "it must have the same top class as Keras for a share of "
                f"--min_agreement={min_agreement:g}. "
                f"Received: {row['top1_agreement']:.4g}"
            )
    return failures


def _measure_latency(functions, image, metadata):
    # What takes images of any size is timed with what it does to them.
    kind = "images" if "images" in functions else "prepared"
    if kind == "prepared":
        image = _prepare(image, metadata)
    return {
        str(count): 1e3 * _time(functions[kind], np.stack([image] * count))
        for count in (1, 8)
    }


def _prepare(image, metadata):
    return preprocessing.prepare_image(
        image, metadata["image_size"], metadata["crop_fraction"]
    )


def _time(run: Callable, images: np.ndarray) -> float:
    # The first prepares what the others find prepared.
    run(images)
    seconds = []
    while len(seconds) < _MOST_RUNS and sum(seconds) < _MOST_SECONDS:
        begin = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _measure_size(path):
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _find_formats(export_dir) -> Iterator[tuple[Format, pathlib.Path]]:
    for model_format in FORMATS:
        path = export_dir / model_format.file_name
        if path.exists():
            yield model_format, path


def main(argv: list[str]) -> None:
    del argv
    folder = pathlib.Path(_EXAMPLES.value)
    files = [path.read_bytes() for path in sorted(folder.glob("*.png"))]
    with np.load(folder / "expected.npz") as arrays:
        expected, source = arrays["probabilities"], str(arrays["source"])
        labels = arrays.get("labels")
    rows = {
        model_format.name: measure_format(
            model_format, path, files, expected, labels
        )
        for model_format, path in _find_formats(pathlib.Path(_EXPORT_DIR.value))
    }
    report = {
        "examples": source,
        "accuracy": compare(expected, expected, labels)["accuracy"],
        "formats": rows,
        "failures": find_failures(rows, _MIN_AGREEMENT.value),
    }
    with replacing(_REPORT.value) as temporary:
        temporary.write_text(json.dumps(report, indent=2))


def run() -> None:
    run_program(main)
