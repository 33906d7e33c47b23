r"""Writes a folder of images as TFRecords, which are faster to read.

    python -m trainers.data.make_records --dataset=photos --output=records
    python -m trainers.train_classifier --dataset=records --model_dir=...

Image files are stored as they are, with the keys of ImageNet's records, in
files of --images_per_file each, in a random order; the labels begin at 1, and
labels.txt names the classes. A folder without validation images of its own has
a fifth of each class written as such.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("trainers.data.make_records")

import math
import os
import pathlib
import shutil

import numpy as np
import tensorflow as tf
from absl import flags

from trainers.data import folders
from trainers.data import records
from trainers.data.image_dataset import Split
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_DATASET = flags.DEFINE_string(
    "dataset", None, "Folder with a folder of images for each class. Required."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder to make for the TFRecords. Required."
)
_IMAGES_PER_FILE = flags.DEFINE_integer(
    "images_per_file", 1000, "Images in a file, at most.", lower_bound=1
)


def make_records(
    source: pathlib.Path, output: pathlib.Path, images_per_file: int
) -> None:
    """Writes a folder of images as a folder of TFRecords.

    Args:
        source: what `open_folder` takes.
        output: folder that does not exist yet; it appears once it is whole.
        images_per_file: most images in a file.

    Raises:
        UserError: If there is no such folder of images, or there is an output
            already.
    """
    if output.exists():
        raise UserError(f"--output must not exist yet. Received: {output}")
    dataset = folders.open_folder(source)
    partial = output.with_name(f"partial-{output.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name in ("train", "validation"):
            _write_split(
                getattr(dataset, name),
                dataset.class_names,
                f"{partial}/{name}",
                images_per_file,
            )
        names = "".join(f"{name}\n" for name in dataset.class_names)
        (partial / records.CLASSES_FILES[0]).write_text(names)
        os.replace(partial, output)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read or written: {error.strerror}."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_split(split: Split, class_names, prefix, images_per_file):
    examples = list(split.examples.as_numpy_iterator())
    # So that each file holds all classes; always the same order.
    order = np.random.default_rng(0).permutation(len(examples))
    count = math.ceil(len(examples) / images_per_file)
    for number, positions in enumerate(np.array_split(order, count)):
        path = f"{prefix}-{number:05}-of-{count:05}"
        with tf.io.TFRecordWriter(path) as writer:
            for position in positions:
                file, label = examples[position]
                writer.write(_make_record(file, label, class_names[label]))


def _make_record(file, label, class_name):
    return records.serialize_example(
        {
            records.IMAGE_KEY: pathlib.Path(os.fsdecode(file)).read_bytes(),
            records.LABEL_KEY: int(label) + 1,
            records.NAME_KEY: os.path.basename(file),
            "image/class/text": class_name.encode(),
        }
    )


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    for flag in (_DATASET, _OUTPUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing.")
    source = pathlib.Path(_DATASET.value)
    if not source.is_dir():
        raise UserError(f"--dataset must be a folder. Received: {source}")
    make_records(source, pathlib.Path(_OUTPUT.value), _IMAGES_PER_FILE.value)
    print(f"TFRecords in {_OUTPUT.value}")


def run() -> None:
    run_program(main)
