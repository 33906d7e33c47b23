r"""Times the input pipeline alone: images per second, step by step.

    python -m benchmarks.input_pipeline

makes JPEGs of 500x375 pixels in a TFRecord file in a temporary folder, and
trains on nothing: it reads, decodes, augments and batches them as training
does. The table has a row for each pipeline, from decoding alone to all of the
augmentation, and one with RandAugment of tf-models-official in place of ours.
The pipelines take turns, so that other work on the machine slows all of them,
and the figures are medians; it disturbs the time of the processor less. All
takes a few minutes on two cores; --output=FILE writes the table as CSV too.
"""

import functools
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags
from official.vision.ops import augment as official_augment
from tqdm import tqdm

from benchmarks import reports
from trainers.data.augmentation import crop_and_flip
from trainers.data.composition import compose_augmentation
from trainers.data.datasets import Split
from trainers.data.decoding import decode_image
from trainers.data.input_pipeline import make_training_batches
from trainers.data.mixing import mix_batch
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 224, "Height and width of the crops, in pixels.", 1
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch.", 1)
_BATCHES = flags.DEFINE_integer(
    "batches", 8, "Timed batches of a pipeline in each round.", 1
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each pipeline.", 1)
_MAGNITUDE = flags.DEFINE_float(
    "magnitude", 15.0, "Magnitude of RandAugment.", 0.0
)
_OUTPUT = flags.DEFINE_string("output", None, "CSV file to write.")

_NUM_IMAGES = 64
_NUM_CLASSES = 1000
_HEIGHT, _WIDTH = 375, 500
# Until the first batches are there and the buffers as full as they stay.
_WARM_UP_BATCHES = 2


def write_images(path: str) -> None:
    """Writes JPEGs that are about as large and as detailed as photographs."""
    random = np.random.default_rng(0)
    with tf.io.TFRecordWriter(path) as writer:
        for _ in range(_NUM_IMAGES):
            # Details of all sizes, the fewer the stronger.
            pixels = 128 + sum(
                tf.image.resize(
                    random.normal(0, 36, (side, side, 3)),
                    (_HEIGHT, _WIDTH),
                    "bicubic",
                )
                for side in (3, 9, 27, 81)
            )
            pixels += random.normal(0, 8, (_HEIGHT, _WIDTH, 1))
            jpeg = tf.io.encode_jpeg(
                tf.saturate_cast(pixels, tf.uint8), quality=90
            )
            writer.write(jpeg.numpy())


def make_pipelines(
    path: str, image_size: int, batch_size: int, magnitude: float
) -> dict[str, tf.data.Dataset]:
    """Returns endless batches for each row of the table."""
    compose = functools.partial(
        compose_augmentation,
        crop_and_flip,
        rand_augment_layers=2,
        rand_augment_magnitude=magnitude,
    )
    everything = compose(random_erasing_rate=0.25)
    steps = {
        "decode": lambda image, image_size, key: image,
        "crop and flip": crop_and_flip,
        "+ RandAugment": compose(),
        "+ erasing": everything,
        # In its place among the rows.
        "+ Mixup or CutMix": everything,
        "crop and flip, RandAugment of tf-models-official": (
            _make_official(magnitude)
        ),
    }
    split = Split(
        tf.data.TFRecordDataset(path).repeat().enumerate().map(_swap),
        # More than is timed.
        size=2**31,
        shuffle_buffer=_NUM_IMAGES,
        load=functools.partial(decode_image, channels=3),
    )
    make_batches = functools.partial(
        make_training_batches,
        split,
        num_classes=_NUM_CLASSES,
        image_size=image_size,
        batch_size=batch_size,
        seed=0,
        epochs=1,
    )
    pipelines = {
        name: make_batches(augment=augment) for name, augment in steps.items()
    }
    pipelines["+ Mixup or CutMix"] = make_batches(
        augment=everything,
        mix=functools.partial(mix_batch, mixup_alpha=0.8, cutmix_alpha=1.0),
    )
    return pipelines


def _swap(number, jpeg):
    return jpeg, number % _NUM_CLASSES


def _make_official(magnitude):
    official = official_augment.RandAugment(num_layers=2, magnitude=magnitude)

    def augment(image, image_size, key):
        image = crop_and_flip(image, image_size, key)
        image = official.distort(image)
        return tf.ensure_shape(image, (image_size, image_size, 3))

    return augment


def measure(batches: tf.data.Dataset, count: int) -> tuple[float, float]:
    """Returns the seconds of the clock and of the CPU for `count` batches."""
    iterator = iter(batches)
    for _ in range(_WARM_UP_BATCHES):
        next(iterator)
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(iterator)
    return time.perf_counter() - clock, time.process_time() - processor


def measure_pipelines(
    pipelines: dict[str, tf.data.Dataset],
    batch_size: int,
    batches: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """Measures pipelines in turn.

    Args:
        pipelines: endless batches, by name.
        batch_size: images in a batch.
        batches: number of timed batches of a pipeline in each round.
        rounds: number of turns of each pipeline.

    Returns:
        A row of the table for each pipeline.
    """
    seconds = {name: [] for name in pipelines}
    for _ in tqdm(range(rounds), "rounds"):
        for name, dataset in pipelines.items():
            seconds[name].append(measure(dataset, batches))
    images = batches * batch_size
    rows = []
    for name, pairs in seconds.items():
        clock, processor = zip(*pairs, strict=True)
        rows.append(
            {
                "pipeline": name,
                "images_per_second": images / statistics.median(clock),
                "best_images_per_second": images / min(clock),
                "cpu_ms_per_image": 1000
                * statistics.median(processor)
                / images,
                "rounds": rounds,
            }
        )
    return rows


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Returns the table of the rows."""
    return reports.format_table(
        ["", "images/s", "best", "CPU ms/image"],
        [
            [
                row["pipeline"],
                round(row["images_per_second"]),
                round(row["best_images_per_second"]),
                row["cpu_ms_per_image"],
            ]
            for row in rows
        ],
    )


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    output = _OUTPUT.value and pathlib.Path(_OUTPUT.value)
    if output and not output.parent.is_dir():
        raise UserError(
            "--output must be a file in a folder that exists. "
            f"Received: {output}"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "images.tfrecord")
        write_images(path)
        size = os.path.getsize(path) / _NUM_IMAGES / 2**10
        print(f"JPEGs of {_WIDTH}x{_HEIGHT} pixels and {size:.0f} KiB")
        pipelines = make_pipelines(
            path, _IMAGE_SIZE.value, _BATCH_SIZE.value, _MAGNITUDE.value
        )
        rows = measure_pipelines(
            pipelines, _BATCH_SIZE.value, _BATCHES.value, _ROUNDS.value
        )
    print(format_rows(rows))
    if output:
        reports.write_csv(output, rows)


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
