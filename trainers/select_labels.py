r"""Chooses among labels that a trained network gave, to train another with.

    python -m trainers.select_labels --labels=labels --output=selected \
        --min_confidence=0.5 --most_per_class=130000 --least_per_class=130000

keeps the images whose surest class has a probability of at least
--min_confidence, and of each class the --most_per_class surest. A class with
fewer than --least_per_class has its images repeated, the surest first, so that
classes may become equally frequent.

--labels is a folder that `export.label_images` wrote, or a pattern of files in
it. --output then has a shard of TFRecords for each of these, whose records are
the same, with the probabilities, or without them with --hard; labels.txt and
teacher.json, once all are whole; report.json with the numbers of images, in all
and of each class; and confidence.png, classes.png and samples.png. Both may be
on any file system that Apache Beam knows.

Stopped in any way, the same command goes on with what it had not done yet, and
ends in the same files. --runner and options of Beam behind -- say where it
runs, such as

    -- --direct_num_workers=4 --direct_running_mode=multi_processing
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("trainers.select_labels")

import glob
import hashlib
import json
import re

from absl import flags
from absl import logging

from trainers.data.records import CLASSES_FILES
from trainers.data.records import is_pattern
from trainers.files import is_disk_full
from trainers.program import UserError
from trainers.program import run_program
from trainers.pseudo_labels import label_records
from trainers.pseudo_labels import pipelines
from trainers.pseudo_labels import selection_passes
from trainers.pseudo_labels import selection_pictures
from trainers.pseudo_labels import shards
from trainers.pseudo_labels.selection_report import format_summary

_LABELS = flags.DEFINE_string(
    "labels",
    None,
    "Folder that export.label_images wrote, or a pattern of files in it. "
    "Required.",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for what is chosen. Required."
)
_MIN_CONFIDENCE = flags.DEFINE_float(
    "min_confidence",
    0.0,
    "Least probability of an image's surest class.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_MOST_PER_CLASS = flags.DEFINE_integer(
    "most_per_class",
    None,
    "Images of a class, at most. Required.",
    lower_bound=1,
)
_LEAST_PER_CLASS = flags.DEFINE_integer(
    "least_per_class",
    0,
    "Images of a class, at least: if they are fewer, they are repeated.",
    lower_bound=0,
)
_HARD = flags.DEFINE_bool(
    "hard", False, "Write the surest class alone, without probabilities."
)
_ALLOW_EMPTY_CLASSES = flags.DEFINE_bool(
    "allow_empty_classes",
    False,
    "Go on though no image of some class is confident.",
)
_RUNNER = flags.DEFINE_string("runner", "DirectRunner", "Runner of Beam.")
# That decide what is written.
_SETTINGS = (_MIN_CONFIDENCE, _MOST_PER_CLASS, _LEAST_PER_CLASS, _HARD)
_SETTINGS_FILE = "selection.json"
_SHARD_NAME = re.compile(r"-\d+-of-(\d+)$")
_MOST_NAMED_CLASSES = 5


def _find_shards(labels):
    """Returns the folder of labels, and path and bytes of each shard."""
    is_folder = not is_pattern(labels) and not _SHARD_NAME.search(labels)
    if is_folder:
        folder = labels
        pattern = shards.join(
            glob.escape(labels), "labels-[0-9]*-of-[0-9]*[0-9]"
        )
    else:
        folder = labels.rpartition("/")[0] or "."
        pattern = labels
    try:
        found = shards.match_files(pattern)
    except OSError as error:
        raise UserError(
            f"It cannot be looked for: {error}. Received: --labels={labels}"
        ) from error
    if not found:
        raise UserError(
            "--labels must be a folder that export.label_images wrote, or a "
            f"pattern of files in it. Received: {labels}"
        )
    if is_folder:
        count = int(_SHARD_NAME.search(found[0][0])[1])
        if len(found) != count:
            raise UserError(
                "--labels must be whole: let export.label_images end, or give "
                "a pattern of the files that are there. Received: "
                f"{len(found)} of {count} in {labels}"
            )
    return folder, found


def _open_output(output, settings):
    """Makes a folder, or checks that it is one of the same selection."""
    path = shards.join(output, _SETTINGS_FILE)
    is_new = not shards.exists(path)
    if is_new:
        teacher_file = shards.join(output, label_records.TEACHER_FILE)
        differences = ["labels"] if shards.exists(teacher_file) else []
    else:
        with shards.fetching(path) as local:
            earlier = json.loads(local.read_text())
        differences = [
            f"{name} {earlier.get(name)}, now {value}"
            for name, value in settings.items()
            if earlier.get(name) != value
        ]
    if differences:
        raise UserError(
            "--output must be a new folder, or hold a selection of the same "
            "labels and settings, to go on with it; choose another one. "
            f"Received: {output}, {'; '.join(differences)}"
        )
    for name in ("", *selection_passes.FOLDERS):
        folder = shards.join(output, name).rstrip("/")
        shards.make_folder(folder)
        shards.remove_partial(folder)
    if is_new:
        with shards.replacing(path) as local:
            local.write_text(json.dumps(settings, indent=2) + "\n")


def _hash_files(found):
    names = [(path.rpartition("/")[2], size) for path, size in found]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _check_classes(report, allows_empty):
    """Checks that each class has an image."""
    classes = report["classes"]
    empty = [row["name"] for row in classes if not row["chosen"]]
    if not empty or (allows_empty and len(empty) < len(classes)):
        return
    names = ", ".join(empty[:_MOST_NAMED_CLASSES])
    rest = " and others" if len(empty) > _MOST_NAMED_CLASSES else ""
    least = report["settings"]["min_confidence"]
    raise UserError(
        "Each class must have an image of --min_confidence; choose a lower one "
        "and another --output or, if some have, --allow_empty_classes. "
        f"Received: {len(empty)} of {len(classes)} classes without a "
        f"confidence of {least:g}: {names}{rest}"
    )


def _finish(output, teacher):
    """Writes what says that all records are there, and whose they are."""
    with shards.replacing(shards.join(output, CLASSES_FILES[0])) as local:
        local.write_text("".join(f"{name}\n" for name in teacher.class_names))
    label_records.write_teacher(output, teacher)


def select_labels(
    labels: str, output: str, settings: dict, *, options, allows_empty: bool
) -> dict:
    """Chooses labels and copies them.

    Args:
        labels: folder or pattern.
        output: folder to make, or to go on with.
        settings: see `selection_passes.choose_records`; `hard` says whether
            to leave out the probabilities.
        options: what `pipelines.parse_options` returned.
        allows_empty: whether a class may be without images.

    Returns:
        What `selection_report.make_report` returned.

    Raises:
        UserError: If something is wrong with what is given, or found.
    """
    folder, found = _find_shards(labels)
    teacher = label_records.read_teacher(folder)
    settings = {
        "labels": labels,
        "teacher": teacher.fingerprint,
        "files": len(found),
        "sha256": _hash_files(found),
        **settings,
    }
    _open_output(output, settings)
    paths = [path for path, _ in found]
    report_file = shards.join(output, selection_passes.REPORT_FILE)
    if not shards.exists(report_file):
        selection_passes.choose_records(
            paths, teacher, settings, output, options
        )
    with shards.fetching(report_file) as local:
        report = json.loads(local.read_text())
    _check_classes(report, allows_empty)
    selection_passes.copy_records(
        paths, teacher, output, options, is_soft=not settings["hard"]
    )
    selection_pictures.draw_selection(output, report)
    _finish(output, teacher)
    return report


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    for flag in (_LABELS, _OUTPUT, _MOST_PER_CLASS):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing. See --help.")
    if _LEAST_PER_CLASS.value > _MOST_PER_CLASS.value:
        raise UserError(
            "--least_per_class must be at most --most_per_class. Received: "
            f"{_LEAST_PER_CLASS.value} and {_MOST_PER_CLASS.value}"
        )
    options = pipelines.parse_options(argv[1:], _RUNNER.value)
    output = _OUTPUT.value.rstrip("/")
    try:
        report = select_labels(
            _LABELS.value.rstrip("/"),
            output,
            {flag.name: flag.value for flag in _SETTINGS},
            options=options,
            allows_empty=_ALLOW_EMPTY_CLASSES.value,
        )
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(
            f"--output cannot be read or written: {error}. Received: {output}"
        ) from error
    print(format_summary(report))
    print(f"Selected labels in {output}")


def run() -> None:
    run_program(main, interrupted="Stopped. The same command goes on.")
