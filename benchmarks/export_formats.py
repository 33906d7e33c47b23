r"""Exports a named network in all formats, and compares them.

    python -m benchmarks.export_formats --output=runs/export_formats

trains the network for some steps on made images, gratings of ten overlapping
hues in noise; writes model.keras and metadata.json to --output, and exports
them as `python -m export.export_model` does, to --output/export. Prints the
table of docs/deployment.md: how long each format takes, and how far it is from
Keras on images that were not trained on. Ten minutes or so on two cores.

Time is worth something only on a machine that does nothing else.
"""

import pathlib

import keras
import numpy as np
from absl import flags
from absl import logging

import lambda_keras
from benchmarks.arguments import check_names
from export import exporter
from export.example_images import Examples
from export.export_folder import prepare_export_dir
from export.trained_classifier import load_classifier
from trainers import run_folder
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_NETWORK = flags.DEFINE_string(
    "network", "lambda_resnet26t", "One of lambda_keras.NETWORKS."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 224, "Height and width in pixels.", lower_bound=32
)
_STEPS = flags.DEFINE_integer(
    "steps", 40, "Number of steps of training.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of the model and its export. Required."
)

_NUM_CLASSES = 10
_BATCH_SIZE = 16
_LEARNING_RATE = 1e-3
# Standard deviation of a class's hues, in distances between two classes.
_HUE_SPREAD = 0.25
# As many as `export.export_model` takes of a data set to find ranges with.
_NUM_REPRESENTATIVE = 100
_NUM_HELD_OUT = 100


def make_images(
    number: int, image_size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Makes gratings, whose class is their hue, in noise.

    Args:
        number: number of images.
        image_size: height and width, pixels.
        seed: of all that is random.

    Returns:
        uint8 images, `(number, image_size, image_size, 3)`, and labels.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(_NUM_CLASSES, size=number)
    places = np.arange(image_size) / image_size
    images = np.empty((number, image_size, image_size, 3), "uint8")
    for image, label in zip(images, labels, strict=True):
        # The hues of neighbouring classes overlap.
        hue = (label + random.normal(0, _HUE_SPREAD)) / _NUM_CLASSES
        color = np.cos(2 * np.pi * (hue - np.arange(3) / 3))
        x, y = random.uniform(-60, 60, 2)
        waves = 1 + np.sin(x * places + y * places[:, None])
        noise = random.normal(128, 30, image.shape)
        image[:] = np.clip(noise + 30 * waves[..., None] * color, 0, 255)
    return images, labels


def train_network(name: str, image_size: int, steps: int) -> keras.Model:
    """Builds a network from pixels to probabilities, and trains it.

    Args:
        name: one of `lambda_keras.NETWORKS`.
        image_size: height and width of the images, pixels.
        steps: number of steps.
    """
    keras.utils.set_random_seed(0)
    pixels = keras.Input((image_size, image_size, 3), name="images")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    network = lambda_keras.build_network(
        name, x.shape[1:], num_classes=_NUM_CLASSES
    )
    model = keras.Model(pixels, network(x), name=name)
    model.compile(
        keras.optimizers.Adam(_LEARNING_RATE),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    images, labels = make_images(steps * _BATCH_SIZE, image_size, seed=1)
    model.fit(images, labels, batch_size=_BATCH_SIZE, verbose=2)
    return model


def export_network(
    name: str, image_size: int, steps: int, output: pathlib.Path
) -> str:
    """Trains a network, saves and exports it.

    Args:
        name: one of `lambda_keras.NETWORKS`.
        image_size: height and width of the images, pixels.
        steps: number of steps of training.
        output: folder to write to, which is made if need be.

    Returns:
        The table of `exporter.format_table`.
    """
    export_dir = output / "export"
    prepare_export_dir(export_dir)
    output.mkdir(parents=True, exist_ok=True)
    train_network(name, image_size, steps).save(output / "model.keras")
    run_folder.write_json(
        output / run_folder.METADATA_FILE,
        {
            "class_names": [str(number) for number in range(_NUM_CLASSES)],
            "crop_fraction": 1.0,
        },
    )
    representative, _ = make_images(_NUM_REPRESENTATIVE, image_size, seed=2)
    images, labels = make_images(_NUM_HELD_OUT, image_size, seed=3)
    exporter.export_classifier(
        load_classifier(output / "model.keras"),
        export_dir,
        representative_images=list(representative),
        examples=Examples(f"{len(images)} gratings", list(images), labels),
        # The table says how seldom a format agrees.
        min_agreement=0.0,
    )
    return exporter.format_table(export_dir)


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    refuse_arguments(argv)
    if not _OUTPUT.value:
        raise UserError("--output is missing: where the results go.")
    check_names("network", [_NETWORK.value], lambda_keras.NETWORKS)
    table = export_network(
        _NETWORK.value,
        _IMAGE_SIZE.value,
        _STEPS.value,
        pathlib.Path(_OUTPUT.value),
    )
    print(table)


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
