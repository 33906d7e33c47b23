"""Finds things in images, with an exported detector.

    python -m export.detect IMAGE... --model=EXPORT_DIR --output_dir=FOLDER

An IMAGE is a file, a folder, a pattern or - for a list on standard input, as
for `export.predict`: PNG, JPEG, BMP, GIF or WebP. Prints a line for each with
what is in it, and writes to FOLDER

    NAME_detections.png
                    for each image, with boxes, masks, names and scores
    detections.json all detections in COCO's form of results: "image_id",
                    "category_id", "bbox" and "segmentation" in pixels of the
                    upright image, "score", and besides "file_name" and
                    "category_name"

The ids are the names of the files if all of them are numbers, as COCO's are,
and else count the images. pycocotools reads the results if it was there when
they were written; without it, run lengths are numbers instead of text.

What is wrong with an image is a line on standard error, and the others go on.
The exit code is 0 if all were looked at, 1 if one was not, and 2 if none can
be, since the model or a flag is wrong.
"""

if __name__ == "__main__":
    from export.command_line import end_at_interrupt

    end_at_interrupt()

import argparse
import collections
import contextlib
import json
import pathlib
from collections.abc import Iterable
from collections.abc import Iterator

from export.command_line import InputError
from export.command_line import Parser
from export.command_line import escape
from export.command_line import print_error
from export.command_line import run_program
from export.detection.coco_results import make_results
from export.detection.coco_results import number_images
from export.detection.exported_detector import ExportedDetector
from export.detection.exported_detector import open_detector
from export.detection.masks import paste_masks
from export.image_files import find_images
from export.image_files import read_image
from export.preprocessing import decode_image
from trainers.detection.pictures import draw_detections
from trainers.files import replacing

RESULTS_FILE = "detections.json"


def _make_parser() -> Parser:
    parser = Parser("export.detect", __doc__)
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="file, folder, pattern or -"
    )
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="folder of an export, or of its SavedModel; required",
    )
    parser.add_argument(
        "--output_dir", metavar="FOLDER", help="folder to write to; required"
    )
    parser.add_argument(
        "--min_score",
        type=_parse_share,
        default=0.5,
        metavar="SCORE",
        help="least score of what is drawn and written, from 0 to 1; the "
        "detector has a least score of its own (default: 0.5)",
    )
    return parser


def _parse_share(text):
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(
            f"must be a number from 0 to 1. Received: {text}"
        )
    return share


def detect_in_images(
    arguments: Iterable[str],
    detector: ExportedDetector,
    output_dir: pathlib.Path,
    min_score: float,
) -> Iterator[tuple[str, list[dict], str]]:
    """Looks at images one after the other, and writes a picture of each.

    Args:
        arguments: see `find_images`.
        detector: what to look with.
        output_dir: existing folder of the pictures.
        min_score: the least score of what is drawn and returned.

    Yields:
        The path of an image, what `make_results` says of it, and "" or what
        is wrong with it.
    """
    pictures = set()
    for path, error in find_images(arguments):
        results = []
        if not error:
            try:
                image = decode_image(read_image(path), channels=3)
            except ValueError as unreadable:
                error = str(unreadable)
        if not error:
            found = detector.detect(image)
            found = found.take(found.scores >= min_score)
            masks = paste_masks(found.masks, found.boxes, *image.shape[:2])
            found = found._replace(masks=masks)
            picture = draw_detections(image, *found, detector.class_names)
            name = _choose_name(path, pictures)
            with _replacing(output_dir / name) as temporary:
                picture.save(temporary, "PNG")
            results = make_results(found, detector.class_names, path)
        yield path, results, error


def _choose_name(path, pictures):
    """Returns a name that no other picture of this run has."""
    stem = pathlib.PurePath(path).stem
    name, count = f"{stem}_detections.png", 1
    while name in pictures:
        count += 1
        name = f"{stem}_{count}_detections.png"
    pictures.add(name)
    return name


def _describe(path: str, results: list[dict]) -> str:
    counts = collections.Counter(r["category_name"] for r in results)
    found = ", ".join(f"{count} {name}" for name, count in counts.items())
    return escape(f"{path}: {found or 'nothing'}")


def main(argv: list[str]) -> int:
    """Prints and draws what is in images.

    Args:
        argv: the arguments, without the name of the program.

    Returns:
        The exit code.

    Raises:
        InputError: If nothing can be looked at or written.
    """
    options = _make_parser().parse_intermixed_args(argv)
    if not options.images:
        raise InputError("At least one image file must be given. See --help.")
    for name in ("model", "output_dir"):
        if getattr(options, name) is None:
            raise InputError(f"--{name} must be given. See --help.")
    output_dir = pathlib.Path(options.output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output_dir cannot be made: {error.strerror}. "
            f"Received: {output_dir}"
        ) from error
    detector = open_detector(pathlib.Path(options.model))
    paths = []
    all_results = []
    failed = 0
    for path, results, error in detect_in_images(
        options.images, detector, output_dir, options.min_score
    ):
        paths.append(path)
        all_results.append(results)
        if error:
            failed += 1
            print_error(f"{path} {error}")
        else:
            print(_describe(path, results), flush=True)
    _write_results(paths, all_results, output_dir / RESULTS_FILE)
    if failed:
        print_error(f"{failed} of {len(paths)} images could not be looked at.")
    return 1 if failed else 0


def _write_results(paths, all_results, path):
    ids = number_images(paths)
    numbered = [
        {"image_id": image_id, **result}
        for image_id, results in zip(ids, all_results, strict=True)
        for result in results
    ]
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(numbered) + "\n")


@contextlib.contextmanager
def _replacing(path):
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise InputError(
            f"--output_dir cannot be written: {error.strerror}. "
            f"Received: {path}"
        ) from error


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
