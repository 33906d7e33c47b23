"""Labels images by millions with an exported model, to train on.

    python -m export.label_images --model=EXPORT_DIR/saved_model \\
        --images=photos --output=labels

writes to the folder `labels` TFRecords with the contents of each image and the
--top_k most likely classes with their probabilities: labels-00000-of-00010 and
so on, which trainers.select_labels chooses among and trainers.train_classifier
trains on. --images is

    photos/         a folder: the images in it and in the folders in it, but
                    for those whose names begin with a dot; or TFRecords
    'photos/**/*.jpg'
                    a pattern of images or of TFRecords
    train-00000-of-00010
                    one file

Images are PNG, JPEG, BMP, GIF and WebP. --images_per_shard image files make a
shard, in the order of their paths; of TFRecords, which must have the key
`image/encoded`, each file does. Paths, also of --model and --output, may be on
any file system that Apache Beam knows, such as gs://bucket/photos.

Images that cannot be read or decoded are named in bad_images.txt and left out.
A program that is stopped, however that may be, goes on with the same command:
what is done is not done again, and the labels are those of a program that
was not stopped. summary.json is written at the end.

Labels on this machine, or with --runner=DataflowRunner and others elsewhere.
Options of Apache Beam follow after --:

    -- --direct_running_mode=multi_processing --direct_num_workers=2
    --runner=DataflowRunner -- --project=photos --region=europe-west1 ...

Needs apache-beam: pip install 'lambda-keras[beam]'.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("export.label_images")

import contextlib
import threading
import time
from collections.abc import Iterator

from absl import flags
from absl import logging
from tqdm import tqdm

from export.command_line import InputError
from export.exported_model import read_metadata
from export.labelling import output as folder_of_labels
from export.labelling.inputs import find_inputs
from export.labelling.inputs import plan_shards
from export.labelling.teacher_model import compute_fingerprint
from export.labelling.teacher_model import fetching_model
from trainers.files import is_disk_full
from trainers.program import UserError
from trainers.program import run_program
from trainers.pseudo_labels import pipelines
from trainers.pseudo_labels.label_records import Teacher

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "SavedModel folder, .tflite or .onnx file of an export. Required.",
)
_IMAGES = flags.DEFINE_string(
    "images", None, "Folder, pattern or file of images or TFRecords. Required."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of labels to write, or to go on with. Required."
)
_TOP_K = flags.DEFINE_integer(
    "top_k",
    5,
    "Number of classes in a record, the most likely ones; all if there are "
    "fewer.",
    lower_bound=1,
)
_IMAGES_PER_SHARD = flags.DEFINE_integer(
    "images_per_shard", 1000, "Image files in a shard.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Images that are classified at once.", lower_bound=1
)
_RUNNER = flags.DEFINE_string(
    "runner", "DirectRunner", "Of Apache Beam; DirectRunner labels here."
)
# At which a bar is moved.
_SECONDS_BETWEEN = 1.0


def label_images(
    images: str,
    output: str,
    model: str,
    *,
    top_k: int,
    images_per_shard: int,
    batch_size: int,
    options,
) -> dict:
    """Labels images.

    Args:
        images: see `find_inputs`.
        output: folder of labels.
        model: path of the exported model.
        top_k: most classes in a record.
        images_per_shard: image files in a shard.
        batch_size: images that are classified at once.
        options: what `pipelines.parse_options` returned.

    Returns:
        What `write_summary` returned, besides `"seconds"` that it took and
        `"labelled_now"`, the number of images that were not done before.

    Raises:
        UserError: If something is wrong with what is given, or found.
    """
    teacher = _read_teacher(model, top_k)
    inputs = find_inputs(images)
    plan = plan_shards(inputs, images_per_shard)
    count = len(plan.spans)
    settings = {
        "fingerprint": teacher.fingerprint,
        "top_k": teacher.top_k,
        "shards": count,
        "files": len(inputs.files),
        "sha256": plan.digest,
    }
    folder_of_labels.prepare_output(output, settings, inputs, teacher)
    pending = folder_of_labels.find_pending(output, count)
    begin = time.perf_counter()
    if pending:
        from export.labelling.shard_labeller import ShardLabeller

        labeller = ShardLabeller(
            output,
            shard_count=count,
            are_records=inputs.are_records,
            teacher=teacher,
            batch_size=batch_size,
        )
        elements = [(number, plan.spans[number]) for number in pending]
        with _showing_progress(output, count, options):
            _run(elements, labeller, options)
    seconds = time.perf_counter() - begin
    return {
        **folder_of_labels.write_summary(output, count),
        "labelled_now": folder_of_labels.count_images(output, pending),
        "seconds": seconds,
    }


def _read_teacher(model, top_k):
    with fetching_model(model) as local:
        try:
            class_names = read_metadata(local)["class_names"]
        except InputError as error:
            raise UserError(str(error)) from error
        fingerprint = compute_fingerprint(local, class_names)
    return Teacher(
        fingerprint, class_names, min(top_k, len(class_names)), model
    )


@contextlib.contextmanager
def _showing_progress(output, count, options) -> Iterator[None]:
    """Shows a bar of shards within the block, if they are labelled here."""
    if not pipelines.is_local(options):
        yield
        return
    is_over = threading.Event()

    def show():
        # Workers may be processes of their own; what they say is in files.
        while not is_over.wait(_SECONDS_BETWEEN):
            # A bar that stands still is no reason to stop.
            with contextlib.suppress(OSError):
                bar.update(folder_of_labels.count_done(output) - bar.n)

    with tqdm(
        total=count,
        initial=folder_of_labels.count_done(output),
        unit=" shards",
        disable=None,
    ) as bar:
        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            bar.update(folder_of_labels.count_done(output) - bar.n)


def _run(elements, labeller, options):
    import apache_beam
    from apache_beam.ml.inference.base import RunInference

    pipelines.run_pipeline(
        lambda pipeline: (
            pipeline
            | "Shards" >> apache_beam.Create(elements)
            | "Label" >> RunInference(labeller)
        ),
        options,
    )


def _describe(output, summary):
    """Returns a line of what is labelled."""
    lines = [
        f"{summary['labelled']:,} of {summary['images']:,} images labelled, in "
        f"{summary['shards']:,} shards in {output}"
    ]
    if summary["bad"]:
        lines.append(
            f"{summary['bad']:,} left out; {folder_of_labels.BAD_FILE} says why"
        )
    if summary["labelled_now"]:
        rate = summary["labelled_now"] / summary["seconds"]
        lines.append(
            f"{summary['labelled_now']:,} of them now, {rate:,.0f} images/s"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    for flag in (_MODEL, _IMAGES, _OUTPUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing. See --help.")
    options = pipelines.parse_options(argv[1:], _RUNNER.value)
    try:
        summary = label_images(
            _IMAGES.value,
            _OUTPUT.value,
            _MODEL.value,
            top_k=_TOP_K.value,
            images_per_shard=_IMAGES_PER_SHARD.value,
            batch_size=_BATCH_SIZE.value,
            options=options,
        )
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(
            f"--output cannot be read or written: {error}. "
            f"Received: {_OUTPUT.value}"
        ) from error
    print(_describe(_OUTPUT.value, summary))


def run() -> None:
    run_program(main, interrupted="Stopped. The same command goes on.")
