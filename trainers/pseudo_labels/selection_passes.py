"""The two passes over labels that choose some of them and copy these.

The first reads all records and keeps, for each shard, a few bytes of what each
says, in predictions/; what leaves a shard for the others is a summary of each
class. The second copies records. What either has written for a shard it does
not write again.
"""

import json
from collections.abc import Sequence

import numpy as np

from trainers.program import UserError
from trainers.pseudo_labels import selection
from trainers.pseudo_labels import shards
from trainers.pseudo_labels.label_records import Teacher
from trainers.pseudo_labels.label_records import make_record
from trainers.pseudo_labels.label_records import read_record
from trainers.pseudo_labels.pipelines import run_pipeline
from trainers.pseudo_labels.selection_report import make_report

REPORT_FILE = "report.json"
_CHOICES_FILE = "choices.npy"
_PREDICTIONS_FOLDER = "predictions"
_SAMPLES_FOLDER = "samples"
# That must be there before.
FOLDERS = (_PREDICTIONS_FOLDER, _SAMPLES_FOLDER)
# Classes of which images are kept to be drawn.
_MOST_SAMPLED_CLASSES = 20
# Fields of `selection.CHOICE` that name such an image.
SAMPLES = ("surest", "last")


def choose_records(
    paths: Sequence[str], teacher: Teacher, settings: dict, output: str, options
) -> None:
    """Writes which records are chosen, and last of all report.json.

    Args:
        paths: files of labels; the number of a shard is its place.
        teacher: whose labels they are.
        settings: of the report; `min_confidence`, `most_per_class` and
            `least_per_class` among them.
        output: existing folder.
        options: what `pipelines.parse_options` returned.

    Raises:
        UserError: If a file or a record in it is damaged, or of another
            teacher.
    """
    import apache_beam as beam

    def build(pipeline):
        (
            pipeline
            | beam.Create(list(enumerate(paths)))
            # Else one machine would read all.
            | beam.Reshuffle()
            | "Summarize" >> beam.FlatMap(_summarize, teacher, settings, output)
            | beam.CombinePerKey(
                selection.merge_summaries, most=settings["most_per_class"]
            )
            | "Choose" >> beam.Map(_choose, settings["least_per_class"])
            | beam.combiners.ToList()
            | "Write" >> beam.Map(_write_choices, teacher, settings, output)
        )

    run_pipeline(build, options)


def copy_records(
    paths: Sequence[str],
    teacher: Teacher,
    output: str,
    options,
    *,
    is_soft: bool,
) -> None:
    """Writes the records that `choose_records` chose.

    Args:
        paths, teacher, output, options: as in `choose_records`.
        is_soft: whether they have the probabilities.
    """
    import apache_beam as beam

    def build(pipeline):
        (
            pipeline
            | beam.Create(list(enumerate(paths)))
            | beam.Reshuffle()
            | beam.Map(_copy_shard, len(paths), teacher, output, is_soft)
        )

    run_pipeline(build, options)


def read_choices(output: str) -> np.ndarray:
    """Reads what is chosen.

    Returns:
        `selection.CHOICE`, `(num_classes,)`.
    """
    return _load(shards.join(output, _CHOICES_FILE))


def sample_classes(choices: np.ndarray) -> np.ndarray:
    """Returns the numbers of some of the classes of which images are chosen.

    Args:
        choices: `selection.CHOICE`, `(num_classes,)`.
    """
    chosen = np.flatnonzero(choices["images"])
    count = min(len(chosen), _MOST_SAMPLED_CLASSES)
    # From the first to the last.
    places = np.linspace(0, len(chosen) - 1, count)
    return chosen[places.round().astype(int)]


def name_sample(output: str, number: int, field: str) -> str:
    """Returns the path of an image that is to be drawn.

    Args:
        output: folder of the selection.
        number: of a class.
        field: one of `SAMPLES`.
    """
    return shards.join(output, _SAMPLES_FOLDER, f"{number:05}-{field}")


def _summarize(shard, teacher, settings, output):
    number, path = shard
    predictions_file = _name_predictions(number, output)
    if not shards.exists(predictions_file):
        predictions = np.fromiter(
            (
                (image.classes[0], image.probabilities[0])
                for image in _read_images(path, teacher)
            ),
            selection.PREDICTION,
        )
        with shards.replacing(predictions_file) as local:
            np.save(local, predictions)
    yield from selection.summarize_shard(
        _load(predictions_file),
        number,
        min_confidence=settings["min_confidence"],
        most=settings["most_per_class"],
    )


def _read_images(path, teacher):
    for number, record in enumerate(shards.read_records(path)):
        try:
            yield read_record(record, teacher)
        except ValueError as error:
            raise UserError(f"Record {number} of {path} {error}.") from error


def _choose(summary, least):
    number, (counts, candidates) = summary
    return number, counts, selection.choose(candidates, least)


def _write_choices(rows, teacher, settings, output):
    num_classes = len(teacher.class_names)
    counts = np.zeros((num_classes, len(selection.BIN_EDGES)), np.int64)
    none = selection.choose(np.empty(0, selection.CANDIDATE), 0)
    choices = np.full(num_classes, none)
    for number, counts_of_class, choice in rows:
        counts[number] = counts_of_class
        choices[number] = choice
    with shards.replacing(shards.join(output, _CHOICES_FILE)) as local:
        np.save(local, choices)
    report = make_report(teacher.class_names, counts, choices, settings)
    with shards.replacing(shards.join(output, REPORT_FILE)) as local:
        local.write_text(json.dumps(report, indent=2) + "\n")


def _copy_shard(shard, count, teacher, output, is_soft):
    import tensorflow as tf

    number, path = shard
    selected = shards.join(output, f"selected-{number:05}-of-{count:05}")
    if shards.exists(selected):
        return
    choices = read_choices(output)
    copies = selection.count_copies(
        _load(_name_predictions(number, output)), number, choices
    )
    # Nothing else of the shard is kept in memory.
    records = {
        place: record
        for place, (record, wanted) in enumerate(
            zip(shards.read_records(path), copies, strict=True)
        )
        if wanted
    }
    _write_samples(number, records, choices, teacher, output)
    if not is_soft:
        records = {
            place: make_record(read_record(record, teacher), is_soft=False)
            for place, record in records.items()
        }
    # So that copies are no neighbors; always the same order.
    order = np.random.default_rng(number).permutation(
        np.repeat(np.arange(len(copies)), copies)
    )
    with (
        shards.replacing(selected) as local,
        tf.io.TFRecordWriter(str(local)) as writer,
    ):
        for place in order:
            writer.write(records[place])


def _write_samples(number, records, choices, teacher, output):
    for class_number in sample_classes(choices):
        for field in SAMPLES:
            candidate = choices[class_number][field]
            if candidate["shard"] == number:
                image = read_record(records[candidate["record"]], teacher)
                path = name_sample(output, class_number, field)
                with shards.replacing(path) as local:
                    local.write_bytes(image.contents)


def _name_predictions(number, output):
    return shards.join(output, _PREDICTIONS_FOLDER, f"{number:05}.npy")


def _load(path):
    with shards.fetching(path) as local:
        return np.load(local)
