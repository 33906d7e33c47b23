"""The folder of labels: which shards are done, and of what."""

import concurrent.futures
import glob
import json
import os

from export.command_line import escape
from export.labelling.inputs import Inputs
from export.labelling.inputs import write_inputs
from trainers.program import UserError
from trainers.pseudo_labels import label_records
from trainers.pseudo_labels import shards
from trainers.pseudo_labels.label_records import Teacher

# Of what the labels are; written after all else that shards need.
_SETTINGS_FILE = "inputs.json"
_SUMMARY_FILE = "summary.json"
BAD_FILE = "bad_images.txt"
_PROGRESS_FOLDER = "progress"
# A file system elsewhere answers after some time, and many at once.
_READERS = 16


def name_shard(folder: str, number: int, count: int) -> str:
    """Returns the path of the labels of a shard, of `count` in all."""
    return shards.join(folder, f"labels-{number:05d}-of-{count:05d}")


def name_progress(folder: str, number: int) -> str:
    """Returns the path of what says that a shard is done."""
    return shards.join(folder, _PROGRESS_FOLDER, f"{number:05d}.json")


def prepare_output(
    folder: str, settings: dict, inputs: Inputs, teacher: Teacher
) -> None:
    """Makes the folder of labels, or checks that it is of the same labels.

    Args:
        folder: the folder.
        settings: what decides the labels.
        inputs: what is to be labelled.
        teacher: who labels.

    Raises:
        UserError: If it holds labels of something else.
        OSError: If it cannot be read or written.
    """
    path = shards.join(folder, _SETTINGS_FILE)
    if shards.exists(path):
        try:
            earlier = _read_json(path)
            differences = [
                f"{name} {earlier[name]}, now {value}"
                for name, value in settings.items()
                if earlier[name] != value
            ]
        except (LookupError, TypeError, ValueError):
            differences = [f"{_SETTINGS_FILE} is damaged"]
    else:
        differences = [
            f"{name} without {_SETTINGS_FILE}"
            for name in sorted(_list_names(folder, "labels-*"))[:1]
        ]
    if differences:
        raise UserError(
            "--output must be a new folder, or hold labels of the same images, "
            "model and settings, to go on with them; choose another one. "
            f"Received: {folder}, {'; '.join(differences)}"
        )
    for inner in (folder, shards.join(folder, _PROGRESS_FOLDER)):
        shards.make_folder(inner)
        shards.remove_partial(inner)
    if not shards.exists(path):
        label_records.write_teacher(folder, teacher)
        write_inputs(folder, inputs)
        _write_json(path, settings)


def find_pending(folder: str, count: int) -> list[int]:
    """Returns the numbers of the shards that are not done."""
    shard_names = _list_names(folder, "labels-*")
    progress_names = _list_progress(folder)
    return [
        number
        for number in range(count)
        if os.path.basename(name_shard(folder, number, count))
        not in shard_names
        or os.path.basename(name_progress(folder, number)) not in progress_names
    ]


def count_done(folder: str) -> int:
    """Returns the number of shards that are done."""
    return len(_list_progress(folder))


def count_images(folder: str, numbers: list[int]) -> int:
    """Returns the number of images in shards that are done."""
    return sum(progress["images"] for progress in _read_all(folder, numbers))


def write_summary(folder: str, count: int) -> dict:
    """Writes the counts of all shards, and which images are bad.

    Args:
        folder: the folder of labels.
        count: number of its shards, all done.

    Returns:
        The numbers of `"shards"`, of `"images"`, and of those `"labelled"` and
        `"bad"`.
    """
    summary = {"shards": count, "images": 0, "labelled": 0, "bad": 0}
    lines = []
    for progress in _read_all(folder, range(count)):
        summary["images"] += progress["images"]
        summary["labelled"] += progress["labelled"]
        summary["bad"] += len(progress["bad"])
        lines += [
            f"{escape(image['name'])}\t{escape(image['reason'])}\n"
            for image in progress["bad"]
        ]
    with shards.replacing(shards.join(folder, BAD_FILE)) as path:
        path.write_text("".join(sorted(lines)))
    _write_json(shards.join(folder, _SUMMARY_FILE), summary)
    return summary


def _list_names(folder, pattern):
    found = shards.match_files(shards.join(glob.escape(folder), pattern))
    return {os.path.basename(path) for path, _ in found}


def _list_progress(folder):
    # What is not whole begins with a letter.
    return _list_names(shards.join(folder, _PROGRESS_FOLDER), "[0-9]*.json")


def _read_all(folder, numbers):
    paths = [name_progress(folder, number) for number in numbers]
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(_read_json, paths)


def _read_json(path):
    with shards.fetching(path) as local:
        return json.loads(local.read_text())


def _write_json(path, value):
    with shards.replacing(path) as local:
        local.write_text(json.dumps(value, indent=2) + "\n")
