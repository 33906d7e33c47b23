"""Labels and selects very many images, and tells what that takes.

    python -m benchmarks.label_scale --records=1000000

writes TFRecords of tiny images, a tenth of --records and then all of them, and
runs `export.label_images` and `trainers.select_labels` on both. The network is
one dense layer, so what is measured is everything but a network. Prints, for
each program and number, seconds, records a second, seconds of processor time
for a million, and the most memory that the process had: that it is the same
for ten times as many records is what this is for. All counts that the programs
report are compared with what was written, and the exit code is 1 if one is
another. Every thousandth image is cut off. Takes a gigabyte of disk and half
an hour or so on two cores.

    python -m benchmarks.label_scale --records=20000 --photographs

does so with JPEGs of 500 x 375 pixels and 100 KB, the size of ImageNet's.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np
from absl import flags
from tqdm import tqdm

from benchmarks.reports import format_table
from trainers import run_folder
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_RECORDS = flags.DEFINE_integer(
    "records", 1_000_000, "Number of images.", lower_bound=1000
)
_RECORDS_PER_SHARD = flags.DEFINE_integer(
    "records_per_shard", 10_000, "Images in a file.", lower_bound=1
)
_PHOTOGRAPHS = flags.DEFINE_bool(
    "photographs", False, "Whether images are of the size of photographs."
)
_FOLDER = flags.DEFINE_string(
    "folder", None, "Where to write; by default a temporary folder."
)

_CLASS_NAMES = [f"class {letter}" for letter in "abcdefghij"]
# Of the network's images.
_SIZE = 8
_PHOTOGRAPH_SHAPE = (375, 500, 3)
# Noise of this shape then has 100 KB.
_PHOTOGRAPH_QUALITY = 65
_BAD_EVERY = 1000
_MOST_PER_CLASS = 1000


class Cost(NamedTuple):
    """What a program took.

    Attributes:
        seconds: by the clock.
        cpu_seconds: of all processors together.
        peak: most bytes that its process had in memory.
    """

    seconds: float
    cpu_seconds: float
    peak: int


def run_measured(*arguments: str) -> Cost:
    """Runs `python -m` with arguments.

    Raises:
        UserError: If it fails.
    """
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(
            f"{arguments[0]} must succeed. Received: exit code "
            f"{process.returncode}"
        )
    return Cost(
        time.monotonic() - start,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024,
    )


def write_images(folder: pathlib.Path, count: int, per_shard: int) -> int:
    """Writes tiny images of noise as TFRecords.

    Args:
        folder: folder to make.
        count: number of images.
        per_shard: number in a file.

    Returns:
        Number of those that are cut off.
    """
    import tensorflow as tf

    from trainers.data.records import IMAGE_KEY
    from trainers.data.records import serialize_example

    folder.mkdir()
    shape = _PHOTOGRAPH_SHAPE if _PHOTOGRAPHS.value else (_SIZE, _SIZE, 1)
    random = np.random.default_rng(0)
    starts = range(0, count, per_shard)
    bad = 0
    for shard, first in enumerate(tqdm(starts, "writing", disable=None)):
        name = f"images-{shard:05}-of-{len(starts):05}"
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for number in range(first, min(first + per_shard, count)):
                pixels = random.integers(0, 256, shape, np.uint8)
                contents = _encode(pixels)
                if number % _BAD_EVERY == _BAD_EVERY - 1:
                    contents = contents[: len(contents) // 2]
                    bad += 1
                writer.write(serialize_example({IMAGE_KEY: contents}))
    return bad


def _encode(pixels):
    import tensorflow as tf

    if not _PHOTOGRAPHS.value:
        return tf.io.encode_png(pixels).numpy()
    return tf.io.encode_jpeg(pixels, quality=_PHOTOGRAPH_QUALITY).numpy()


def export_network(folder: pathlib.Path) -> pathlib.Path:
    """Exports a network of one layer; returns the SavedModel."""
    import keras

    keras.utils.set_random_seed(0)
    images = keras.Input((_SIZE, _SIZE, 3 if _PHOTOGRAPHS.value else 1))
    x = keras.layers.Rescaling(1 / 32)(images)
    x = keras.layers.Flatten()(x)
    network = keras.Model(images, keras.layers.Dense(len(_CLASS_NAMES))(x))
    folder.mkdir(parents=True, exist_ok=True)
    network.save(folder / run_folder.BEST_FILE)
    run_folder.write_json(
        folder / run_folder.METADATA_FILE,
        {"class_names": _CLASS_NAMES, "crop_fraction": 1.0},
    )
    run_measured(
        "export.export_model",
        f"--model={folder / run_folder.BEST_FILE}",
        "--formats=saved_model",
    )
    return folder / "export" / "saved_model"


def measure(
    model: pathlib.Path, folder: pathlib.Path, count: int, per_shard: int
) -> dict[str, Cost]:
    """Labels and selects images.

    Args:
        model: what `export_network` returned.
        folder: folder to make.
        count: number of images.
        per_shard: number in a file.

    Returns:
        What each program took.

    Raises:
        UserError: If a program fails or counts wrongly.
    """
    folder.mkdir(parents=True)
    bad = write_images(folder / "images", count, per_shard)
    labels, selected = folder / "labels", folder / "selected"
    costs = {
        "label_images": run_measured(
            "export.label_images",
            f"--model={model}",
            f"--images={folder / 'images'}",
            f"--output={labels}",
        ),
        "select_labels": run_measured(
            "trainers.select_labels",
            f"--labels={labels}",
            f"--output={selected}",
            "--min_confidence=0.3",
            "--allow_empty_classes",
            f"--most_per_class={_MOST_PER_CLASS}",
        ),
    }
    summary = json.loads((labels / "summary.json").read_text())
    report = json.loads((selected / "report.json").read_text())
    _check("images", summary["images"], count)
    _check("bad", summary["bad"], bad)
    _check("labelled", summary["labelled"], count - bad)
    _check("records", report["records"], count - bad)
    return costs


def _check(name, counted, written):
    if counted != written:
        raise UserError(
            f"The programs must count {written} {name}. Received: {counted}"
        )


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(_FOLDER.value or temporary)
        model = export_network(folder / "network")
        rows = []
        for count in (_RECORDS.value // 10, _RECORDS.value):
            costs = measure(
                model, folder / str(count), count, _RECORDS_PER_SHARD.value
            )
            rows += [
                [
                    name,
                    f"{count:,}",
                    cost.seconds,
                    count / cost.seconds,
                    cost.cpu_seconds * 1e6 / count,
                    round(cost.peak / 2**20),
                ]
                for name, cost in costs.items()
            ]
    header = ["", "records", "s", "per s", "CPU s per million", "MiB"]
    print(format_table(header, rows))


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
