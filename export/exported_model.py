"""Opens a model of an export, whole or not, without the trainers."""

import contextlib
import hashlib
import io
import json
import math
import pathlib
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from export.command_line import InputError
from export.formats import FORMATS
from export.formats import Format
from export.formats import Run

# What `export.exporter` writes beside the models.
REPORT_FILE = "export_report.json"
_RULE = "--model must be written by export.export_model and be whole, but"
# Where the package's name is not that of the module.
_PACKAGES = {"PIL": "pillow", "ai_edge_litert": "ai-edge-litert"}


class ExportedModel(NamedTuple):
    """An exported model that is in memory.

    Attributes:
        format: in which it is.
        metadata: what `Classifier.describe` said of it.
        runs: what `Format.load` returns.
    """

    format: Format
    metadata: dict
    runs: dict[str, Run]


def open_model(model_path: pathlib.Path) -> ExportedModel:
    """Opens an exported model and runs it once.

    Args:
        model_path: SavedModel folder, .tflite or .onnx file, whatever its
            name.

    Raises:
        InputError: If there is no such model, it is damaged, or a package is
            missing.
    """
    metadata = read_metadata(model_path)
    model_format = _find_format(model_path)
    runs = _load(model_format, model_path, metadata)
    return ExportedModel(model_format, metadata, runs)


def read_metadata(model_path: pathlib.Path) -> dict:
    """Returns what `Classifier.describe` said of an exported model.

    Args:
        model_path: see `open_model`.

    Raises:
        InputError: If there is no such model, or it is seen to be damaged
            before it is loaded.
    """
    model_format = _find_format(model_path)
    check_checksums(model_path)
    return _read_metadata(model_format, model_path)


def _find_format(model_path) -> Format:
    for candidate in FORMATS:
        if candidate.recognizes(model_path):
            return candidate
    raise InputError(
        "--model must be a SavedModel folder, a .tflite or an .onnx file. "
        f"Received: {model_path}"
    )


def check_checksums(model_path: pathlib.Path) -> None:
    """Compares a model with the report that lies beside it.

    Where some bits are others, a model still runs, to say something else.

    Raises:
        InputError: If it is damaged.
    """
    path = model_path.absolute()
    for name, checksum in _read_report(path.parent).items():
        file = path.parent / name
        if file != path and path not in file.parents:
            continue
        if not file.is_file() or checksum != hash_file(file):
            raise InputError(
                "--model must be as it was exported, but by the checksums "
                f"in {REPORT_FILE} {name} is damaged, changed or "
                f"missing. Received: {model_path}"
            )


def _read_report(folder):
    """Returns the SHA-256 of each file of an export, if it is known."""
    try:
        return dict(json.loads((folder / REPORT_FILE).read_bytes())["files"])
    # A model may be copied without its report, which may be an old one.
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def hash_file(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_metadata(model_format, model_path):
    with explaining(f"{_RULE} its metadata cannot be read", model_path):
        metadata = model_format.read_metadata(model_path)
    wrong = _find_wrong(metadata)
    if wrong:
        raise InputError(
            f"{_RULE} in its metadata {wrong}. Received: {model_path}"
        )
    return metadata


@contextlib.contextmanager
def explaining(problem: str, model_path: pathlib.Path) -> Iterator[None]:
    """Makes one line of what is raised of a model within the block.

    A damaged file makes zipfile, json and the runtimes raise anything.

    Args:
        problem: the rule that is broken, and how.
        model_path: what is read.

    Raises:
        InputError: If anything is raised.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module, _, _ = error.name.partition(".")
        raise InputError(
            f"{_PACKAGES.get(module, module)} must be installed to run such a "
            f"file. Received: --model={model_path}"
        ) from error
    except Exception as error:
        reason = textwrap.shorten(str(error), 200, placeholder="...")
        described = f"{type(error).__name__}: {reason}".rstrip(".: ")
        raise InputError(
            f"{problem}: {described}. Received: {model_path}"
        ) from error


def _find_wrong(metadata):
    if not isinstance(metadata, dict):
        return "there is no object"
    names = metadata.get("class_names")
    size = metadata.get("image_size")
    channels = metadata.get("channels")
    fraction = metadata.get("crop_fraction")
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) for name in names)
    ):
        return "class_names is no list of names"
    # A bool is an int.
    if type(size) is not int or size < 1:
        return "image_size is no number of pixels"
    if type(channels) is not int or channels not in (1, 3):
        return "channels is neither 1 nor 3"
    if (
        type(fraction) not in (int, float)
        or not math.isfinite(fraction)
        or not 0 < fraction <= 1
    ):
        return "crop_fraction is no fraction"
    return None


def _load(model_format, model_path, metadata):
    # Some runtimes raise only when they run it.
    with explaining(f"{_RULE} cannot be run", model_path):
        runs = model_format.load(model_path)
        probabilities, _ = runs["image_bytes"]([_make_image()])
    _, num_classes = probabilities.shape
    num_names = len(metadata["class_names"])
    if num_names != num_classes:
        raise InputError(
            "--model must name each of its classes. Received: "
            f"{num_names} names for {num_classes} classes in {model_path}"
        )
    return runs


def _make_image():
    """Returns a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    return file.getvalue()
