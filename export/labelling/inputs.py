"""What is labelled: files of images or of records, and which make a shard."""

import glob
import hashlib
import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from export.image_files import IMAGE_SUFFIXES
from export.image_files import find_images
from export.image_files import is_image_name
from trainers.data.records import is_records_name
from trainers.program import UserError
from trainers.pseudo_labels import shards

# An [path, bytes] on each line, so that a worker reads the lines of its shard
# alone, and what is sent to it stays small.
INPUTS_FILE = "inputs.jsonl"
# A number of five digits, as in ImageNet's, names each.
_MOST_SHARDS = 99_999


class Inputs(NamedTuple):
    """The files to label.

    Attributes:
        files: path and bytes of each, in the order of their paths; -1 of one
            that cannot be looked at.
        are_records: whether they are TFRecords, and not image files.
    """

    files: list[tuple[str, int]]
    are_records: bool


class Plan(NamedTuple):
    """What makes a shard.

    Attributes:
        spans: for each shard where its lines in `INPUTS_FILE` begin and end,
            in bytes.
        digest: SHA-256 of the file, in hexadecimal digits.
    """

    spans: list[tuple[int, int]]
    digest: str


def find_inputs(images: str) -> Inputs:
    """Finds image files or TFRecords.

    Args:
        images: a folder, in which, and in the folders in it, image files are
            taken, or else TFRecords in itself; a pattern of either; or one
            file. On a file system of Beam if it has a scheme, in which case
            TFRecords are looked for in all folders too. What it is goes by
            the names of the files.

    Raises:
        UserError: If there are none, some of both, or it cannot be looked for.
    """
    try:
        files = _list_remote(images) if shards.is_remote(images) else []
        files = files or _list_local(images)
    except OSError as error:
        raise UserError(
            f"It cannot be looked for: {error}. Received: --images={images}"
        ) from error
    image_files = [file for file in files if _has_name(file, is_image_name)]
    record_files = [file for file in files if _has_name(file, is_records_name)]
    if bool(image_files) == bool(record_files):
        received = (
            f"{image_files[0][0]} and {record_files[0][0]}"
            if image_files
            else "neither"
        )
        raise UserError(
            f"--images must name image files ({', '.join(IMAGE_SUFFIXES)}) or "
            "TFRecords (named *.tfrecord or *-00000-of-00010), and not both. "
            f"Received: {received} in {images}"
        )
    return Inputs(image_files or record_files, bool(record_files))


def _list_remote(images):
    if not glob.has_magic(images):
        # Object stores have no folders that could be asked for.
        inner = shards.join(images, "")
        files = [
            file
            for file in shards.match_files(f"{inner}**")
            if not _is_hidden(file[0].removeprefix(inner))
        ]
        if files:
            return files
    return shards.match_files(images)


def _list_local(images):
    if not os.path.isdir(images):
        if os.path.lexists(images):
            return [(images, _measure(images))]
        return shards.match_files(images)
    found = list(find_images([images]))
    for path, error in found:
        # Of a folder that holds no images, it is said of itself.
        if error and path != images:
            raise OSError(f"{path} {error}")
    records = shards.match_files(shards.join(glob.escape(images), "*"))
    files = [(path, _measure(path)) for path, error in found if not error]
    return sorted({*files, *records})


def _measure(path):
    try:
        return os.path.getsize(path)
    except OSError:
        return -1


def _has_name(file, is_such):
    name = os.path.basename(file[0])
    return is_such(name) and not _is_hidden(name)


def _is_hidden(path):
    return any(part.startswith(".") for part in path.split("/"))


def plan_shards(inputs: Inputs, images_per_shard: int) -> Plan:
    """Decides which files make a shard.

    Args:
        inputs: what `find_inputs` returned.
        images_per_shard: most image files in a shard. A file of TFRecords is
            one, whatever it holds.

    Raises:
        UserError: If there would be too many.
    """
    step = 1 if inputs.are_records else images_per_shard
    count = -(-len(inputs.files) // step)
    if count > _MOST_SHARDS:
        raise UserError(
            f"There must be at most {_MOST_SHARDS} shards, so that five digits "
            "name each; join files of TFRecords, or give a larger "
            f"--images_per_shard. Received: {count} shards"
        )
    digest = hashlib.sha256()
    spans = []
    start = end = 0
    for number, line in enumerate(_make_lines(inputs), start=1):
        digest.update(line)
        end += len(line)
        if number % step == 0 or number == len(inputs.files):
            spans.append((start, end))
            start = end
    return Plan(spans, digest.hexdigest())


def write_inputs(folder: str, inputs: Inputs) -> None:
    """Writes `INPUTS_FILE`."""
    with (
        shards.replacing(shards.join(folder, INPUTS_FILE)) as path,
        path.open("wb") as file,
    ):
        file.writelines(_make_lines(inputs))


def read_span(folder: str, span: tuple[int, int]) -> list[str]:
    """Returns the paths of the files of a shard, from `INPUTS_FILE`.

    Args:
        folder: where that file is.
        span: one of `Plan.spans`.
    """
    lines = shards.read_part(shards.join(folder, INPUTS_FILE), *span)
    return [json.loads(line)[0] for line in lines.splitlines()]


def _make_lines(inputs) -> Iterator[bytes]:
    # Names of files may be of any bytes, which json writes in ASCII.
    return (json.dumps(file).encode() + b"\n" for file in inputs.files)
