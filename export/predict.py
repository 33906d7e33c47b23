"""Says what is in images, with an exported model.

    python -m export.predict IMAGE... --model=EXPORT_DIR/saved_model --top=3

or with --model=EXPORT_DIR/model.tflite or model.onnx. An IMAGE is

    scan.png        a file, whatever its name
    scans/          a folder: the images in it and in the folders in it, but
                    for those whose names begin with a dot
    'scans/**/*.png'
                    a pattern, where no file bears its name
    -               standard input: the name of a file on each line

Images are PNG, JPEG, BMP, GIF and WebP, of a folder or a pattern those with
such a suffix. Prints the most likely classes of each with their probabilities;
with --format=json an object on each line, {"path": ..., "classes": [{"name":
..., "index": ..., "probability": ...}, ...]} or {"path": ..., "error": ...},
and with --format=csv a row for each class. Images are read, classified and
printed by --batch_size, so that any number takes no more memory.

What is wrong with an image is a line on standard error, and the others go on.
The exit code is 0 if all are classified, 1 if one is not, and 2 if none can
be, since the model or a flag is wrong.

The folder `export` may be copied to a machine that has nothing else of this
project. There, this program needs numpy, pillow and, for a .tflite file,
ai-edge-litert, for an .onnx file, onnxruntime, for a SavedModel, tensorflow.
What TensorFlow logs is left out; TF_CPP_MIN_LOG_LEVEL=0 in the environment
shows it.
"""

if __name__ == "__main__":
    from export.command_line import end_at_interrupt

    end_at_interrupt()

import os
import pathlib
import sys
from collections.abc import Iterable
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from export import predictions
from export.command_line import InputError
from export.command_line import Parser
from export.command_line import parse_count
from export.command_line import print_error
from export.command_line import run_program
from export.exported_model import open_model
from export.formats import Run
from export.image_files import MOST_BYTES
from export.image_files import find_images
from export.image_files import read_image
from export.predictions import Prediction
from export.predictions import rank_classes

_WRITERS = {
    "table": predictions.format_table,
    "json": predictions.format_json,
    "csv": predictions.format_csv,
}


class _File(NamedTuple):
    """A file with its contents, or with what is wrong with it."""

    path: str
    contents: bytes
    error: str


def _make_parser() -> Parser:
    parser = Parser("export.predict", __doc__)
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="file, folder, pattern or -"
    )
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="SavedModel folder, .tflite or .onnx file of an export; required",
    )
    parser.add_argument(
        "--top",
        type=parse_count,
        default=3,
        metavar="N",
        help="number of classes to print for each image (default: 3)",
    )
    parser.add_argument(
        "--format",
        choices=list(_WRITERS),
        default="table",
        help="what to print (default: table)",
    )
    parser.add_argument(
        "--batch_size",
        type=parse_count,
        default=16,
        metavar="N",
        help="number of images that are classified and printed at once "
        "(default: 16)",
    )
    return parser


def _parse(argv):
    # After -- an image's name may begin with a dash; argparse forgets that
    # where flags and images are mixed.
    end = argv.index("--") if "--" in argv else len(argv)
    options = _make_parser().parse_intermixed_args(argv[:end])
    options.images += argv[end + 1 :]
    return options


def classify_images(
    arguments: Iterable[str],
    classify: Run,
    class_names: list[str],
    *,
    top: int,
    batch_size: int,
) -> Iterator[list[Prediction]]:
    """Classifies image files batch by batch.

    Args:
        arguments: see `find_images`.
        classify: function of a list of the contents of image files.
        class_names: one name per class.
        top: number of classes to return for each image.
        batch_size: largest number of files to read and classify at once.

    Yields:
        Lists of predictions, in the order of the files.
    """
    for batch in _read_batches(arguments, batch_size):
        contents = [file.contents for file in batch if not file.error]
        rows = iter(zip(*classify(contents), strict=True))
        yield [
            Prediction(file.path, [], file.error)
            if file.error
            else _make_prediction(file.path, *next(rows), class_names, top)
            for file in batch
        ]


def _read_batches(arguments, batch_size):
    batch, size = [], 0
    for path, error in find_images(arguments):
        contents = b""
        if not error:
            try:
                contents = read_image(path)
            except ValueError as unreadable:
                error = str(unreadable)
        batch.append(_File(path, contents, error))
        size += len(contents)
        # No more than two of the largest files are in memory.
        if len(batch) == batch_size or size >= MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _make_prediction(path, probabilities, error, class_names, top):
    if not error and not np.isfinite(probabilities).all():
        error = "makes the model return what is no probability"
    if error:
        return Prediction(path, [], error)
    return Prediction(path, rank_classes(probabilities, class_names, top), "")


def _open_output(name):
    """Has standard output take any text of a format."""
    if name == "csv" and not sys.stdout.isatty():
        # The bytes of a file's name, of whatever encoding, remain the same.
        sys.stdout.reconfigure(
            encoding="utf-8", errors="surrogateescape", newline="\n"
        )
    else:
        sys.stdout.reconfigure(errors="backslashreplace")
    if name == "csv":
        _print(predictions.CSV_HEADER)


def _print(text):
    try:
        print(text, end="", flush=True)
    except OSError as error:
        # What is left would fail once more as the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise InputError(
            f"Standard output cannot be written: {error.strerror}"
        ) from error


def _open_progress():
    """Returns a bar of tqdm if people see nothing else, and else `None`."""
    if sys.stdout.isatty() or not sys.stderr.isatty():
        return None
    try:
        import tqdm
    except ModuleNotFoundError:
        return None
    return tqdm.tqdm(unit=" images")


def _print_error(text, progress=None):
    if progress is not None:
        progress.clear()
    print_error(text)


def main(argv: list[str]) -> int:
    """Prints what is in images.

    Args:
        argv: the arguments, without the name of the program.

    Returns:
        The exit code.

    Raises:
        InputError: If nothing can be classified or printed.
    """
    options = _parse(argv)
    if not options.images:
        raise InputError("At least one image file must be given. See --help.")
    if options.model is None:
        raise InputError("--model must be given. See --help.")
    model = open_model(pathlib.Path(options.model))
    _open_output(options.format)
    is_csv_shown = options.format == "csv" and sys.stdout.isatty()
    write = _WRITERS[options.format]
    progress = _open_progress()
    count = failed = 0
    for batch in classify_images(
        options.images,
        model.runs["image_bytes"],
        model.metadata["class_names"],
        top=options.top,
        batch_size=options.batch_size,
    ):
        shown = map(predictions.escape_all, batch) if is_csv_shown else batch
        _print("".join(map(write, shown)))
        errors = [f"{p.path} {p.error}" for p in batch if p.error]
        for error in errors:
            _print_error(error, progress)
        count += len(batch)
        failed += len(errors)
        if progress is not None:
            progress.update(len(batch))
    if progress is not None:
        progress.close()
    if failed:
        _print_error(f"{failed} of {count} images could not be classified.")
    return 1 if failed else 0


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
