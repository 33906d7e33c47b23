r"""Says what is in images, with an exported model.

    python -m export.predict IMAGE... --model=EXPORT_DIR/saved_model --top=3

or with `--model=EXPORT_DIR/model.tflite` or `model.onnx`. Prints the most
likely classes of each image with their probabilities, after about five seconds
of start-up.

The folder `export` may be copied to a machine that has nothing else of this
project. There, this program needs TensorFlow, absl-py and, for a `.tflite`
file, ai-edge-litert, for an `.onnx` file, onnxruntime. What TensorFlow logs is
left out; TF_CPP_MIN_LOG_LEVEL=0 in the environment shows it.
"""

if __name__ == "__main__":
    import os
    import signal

    def _stop(*_):
        os.write(2, b"\nStopped.\n")
        os._exit(130)

    # Raised while modules are imported, Ctrl-C would be theirs to catch.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)

import os
import pathlib
import sys
import zipfile

import numpy as np
from absl import app
from absl import flags

from export.formats import FORMATS
from export.formats import Format
from export.formats import Run
from export.preprocessing import decode_image

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "SavedModel folder, .tflite or .onnx file of an export. Required.",
)
_TOP = flags.DEFINE_integer(
    "top", 3, "Number of classes to print for each image.", lower_bound=1
)


class InputError(Exception):
    """What the user can mend; its message, one line, is all they see."""


def find_format(model_path: pathlib.Path) -> Format:
    """Returns the format of an exported model, whatever its name.

    Raises:
        InputError: If there is no exported model.
    """
    for candidate in FORMATS:
        if candidate.recognizes(model_path):
            return candidate
    raise InputError(
        "--model must be a SavedModel folder, a .tflite or an .onnx file. "
        f"Received: {model_path}"
    )


def read_metadata(model_format: Format, model_path: pathlib.Path) -> dict:
    """Reads the class names and image size that travel with a model.

    Returns:
        `class_names`, `image_size`, `channels` and `crop_fraction`.

    Raises:
        InputError: If the model carries no metadata, or a package is missing.
    """
    try:
        return model_format.read_metadata(model_path)
    except ModuleNotFoundError as error:
        raise _describe_missing(error, model_path) from error
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            "--model must be written by export.export_model, which adds "
            f"metadata.json. Received: {model_path}"
        ) from error


def load_classify(model_format: Format, model_path: pathlib.Path) -> Run:
    """Loads a model, for lists of the contents of image files.

    Raises:
        InputError: If a package is missing.
    """
    try:
        return model_format.load(model_path)["image_bytes"]
    except ModuleNotFoundError as error:
        raise _describe_missing(error, model_path) from error


def _describe_missing(error, model_path):
    return InputError(
        f"{error.name} must be installed to run such a file. "
        f"Received: --model={model_path}"
    )


def read_image(path: str, channels: int) -> bytes:
    """Returns the contents of an image file.

    Raises:
        InputError: If it cannot be read or decoded.
    """
    try:
        contents = pathlib.Path(path).read_bytes()
        decode_image(contents, channels)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(
            f"{path} must be a PNG, JPEG, BMP or GIF image, but cannot be "
            "decoded."
        ) from error
    return contents


def format_classes(
    probabilities: np.ndarray, class_names: list[str], top: int
) -> str:
    """Returns a line for each of the most likely classes."""
    best = np.argsort(-probabilities, kind="stable")[:top]
    return "\n".join(
        f"  {probabilities[n]:7.2%}  {class_names[n]}" for n in best
    )


def main(argv: list[str]) -> None:
    image_paths = argv[1:]
    if not image_paths:
        raise InputError("At least one image file must be given.")
    if _MODEL.value is None:
        raise InputError("--model must be given.")
    model_path = pathlib.Path(_MODEL.value)
    model_format = find_format(model_path)
    metadata = read_metadata(model_format, model_path)
    # All of them, before the model is loaded and anything is printed.
    images = [read_image(path, metadata["channels"]) for path in image_paths]
    classify = load_classify(model_format, model_path)
    for path, contents in zip(image_paths, images, strict=True):
        (probabilities,), _ = classify([contents])
        classes = format_classes(
            probabilities, metadata["class_names"], _TOP.value
        )
        print(f"{path}\n{classes}", flush=True)


def _parse(argv):
    if "--help" in argv:
        own = flags.FLAGS.module_help(sys.modules[main.__module__])
        print(__doc__, own.replace(f"{main.__module__}:", "flags:"), sep="\n")
        sys.exit()
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise InputError(f"{error} See --help.") from error


def run() -> None:
    # Flags may follow the images.
    flags.FLAGS.set_gnu_getopt()
    # Before TensorFlow is imported: its errors are exceptions besides.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # It ends as with `trainers.program`, which a copy of this folder lacks.
    try:
        app.run(main, flags_parser=_parse)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
