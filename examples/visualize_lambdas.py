r"""Draws how much each pixel weighs in the lambda layers of a trained network.

    python -m examples.visualize_lambdas --model=runs/digits/best.keras \
        --output_dir=runs/digits/weights

writes a picture per lambda layer for each of three scanned digits that were
held out of training; --image=FILE takes an image instead. A picture shows the
image with a query framed, and for each head how much every pixel of the layer's
grid weighs in the output at the query: for its content, and for its position.

The lambda layers of the default network for digits have grids of 4x4 and 2x2
pixels. Those of a network that was trained with --layout=LLCC have 16x16 and
8x8, and show more.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("examples.visualize_lambdas")

import pathlib

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from export.trained_classifier import Classifier
from export.trained_classifier import load_classifier
from lambda_keras import visualize
from trainers.data.datasets import open_dataset
from trainers.data.decoding import decode_image
from trainers.data.preprocessing import prepare_image
from trainers.files import replacing
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_MODEL = flags.DEFINE_string(
    "model", None, "The .keras file of a trained classifier. Required."
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where the pictures go, a folder. Required."
)
_IMAGE = flags.DEFINE_string(
    "image",
    None,
    "A PNG, JPEG, BMP, GIF or WebP file; without it, scanned digits.",
)
_QUERY = flags.DEFINE_list(
    "query",
    None,
    "ROW,COLUMN from 0 of a pixel, after the image is resized to the size "
    "that the network takes; without it, the brightest pixel.",
)
_LAYER = flags.DEFINE_string(
    "layer", None, "Name of a lambda layer; without it, all of them."
)

_NUM_SCANS = 3


def read_scans(classifier: Classifier) -> dict[str, np.ndarray]:
    """Returns some digits that were held out of training, by a name.

    Raises:
        UserError: If the network is not one for images in gray.
    """
    if classifier.channels != 1:
        raise UserError(
            "--image is missing: the scanned digits that would stand in are "
            f"gray. Received: a --model of {classifier.channels} channels"
        )
    examples = open_dataset("digits").validation.examples.take(_NUM_SCANS)
    return {
        f"scan{number}_of_a_{label}": _prepare(image, classifier)
        for number, (image, label) in enumerate(examples, start=1)
    }


def read_image(path: pathlib.Path, classifier: Classifier) -> np.ndarray:
    """Returns an image of a file as the network takes it.

    Raises:
        UserError: If the file is missing or no image.
    """
    try:
        image = decode_image(path.read_bytes(), classifier.channels)
    except OSError as error:
        raise UserError(
            f"--image cannot be read: {path} ({error.strerror})"
        ) from error
    except tf.errors.InvalidArgumentError as error:
        raise UserError(
            "--image must be a PNG, JPEG, BMP, GIF or WebP file. "
            f"Received: {path}"
        ) from error
    return _prepare(image, classifier)


def parse_query(numbers: list[str], image_size: int) -> tuple[int, int]:
    """Returns the `(row, column)` of a pixel.

    Raises:
        UserError: If the numbers are not those of a pixel of the image.
    """
    try:
        row, column = map(int, numbers)
    except ValueError:
        row = column = -1
    if not (0 <= row < image_size and 0 <= column < image_size):
        raise UserError(
            f"--query must be ROW,COLUMN, two numbers from 0 to "
            f"{image_size - 1}. Received: {','.join(numbers)}"
        )
    return row, column


def find_brightest(image: np.ndarray) -> tuple[int, int]:
    """Returns the `(row, column)` of the brightest pixel."""
    brightness = image.mean(axis=-1)
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    return int(row), int(column)


def choose_layers(model: keras.Model, name: str | None) -> list[str]:
    """Returns the name of the one layer that was asked for, or all names.

    Raises:
        UserError: If there is no such layer.
    """
    names = [layer.name for layer in visualize.find_lambda_layers(model)]
    if not names:
        raise UserError("--model must have lambda layers. Received: none")
    if name is None:
        return names
    if name not in names:
        raise UserError(
            f"--layer must be one of {', '.join(names)}. Received: {name}"
        )
    return [name]


def write_picture(
    weights: visualize.PixelWeights, image: np.ndarray, path: pathlib.Path
) -> None:
    """Draws weights beside their image into a PNG file."""
    figure = visualize.draw_pixel_weights(weights, image)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def draw_weights(
    model_path: pathlib.Path,
    output_dir: pathlib.Path,
    *,
    image_path: pathlib.Path | None = None,
    query: list[str] | None = None,
    layer_name: str | None = None,
) -> list[pathlib.Path]:
    """Writes a picture for each image and lambda layer.

    Args:
        model_path: the `.keras` file of a classifier.
        output_dir: folder of the pictures, which is made if need be.
        image_path: image file. Defaults to some scanned digits.
        query: row and column of a pixel. Defaults to the brightest.
        layer_name: name of a lambda layer. Defaults to all.

    Returns:
        The files written.

    Raises:
        UserError: If something is wrong that the user can mend.
    """
    classifier = load_classifier(model_path)
    layer_names = choose_layers(classifier.model, layer_name)
    if query is not None:
        query = parse_query(query, classifier.image_size)
    if image_path is None:
        images = read_scans(classifier)
    else:
        images = {image_path.stem: read_image(image_path, classifier)}
    _make_folder(output_dir)
    paths = []
    for image_name, image in images.items():
        for name in layer_names:
            weights = visualize.compute_pixel_weights(
                classifier.model, image, query or find_brightest(image), name
            )
            paths.append(output_dir / f"{image_name}_{name}.png")
            write_picture(weights, image, paths[-1])
    return paths


def _prepare(image, classifier):
    return prepare_image(
        image, classifier.image_size, classifier.crop_fraction
    ).numpy()


def _make_folder(path):
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output_dir must be a folder that can be written to. "
            f"Received: {path} ({error.strerror})"
        ) from error


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    if not _MODEL.value:
        raise UserError("--model is missing: the .keras file to look into.")
    if not _OUTPUT_DIR.value:
        raise UserError("--output_dir is missing: where the pictures go.")
    paths = draw_weights(
        pathlib.Path(_MODEL.value),
        pathlib.Path(_OUTPUT_DIR.value),
        image_path=_IMAGE.value and pathlib.Path(_IMAGE.value),
        query=_QUERY.value,
        layer_name=_LAYER.value,
    )
    print("\n".join(map(str, paths)))


def run() -> None:
    run_program(main)
