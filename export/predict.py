r"""Says what is in images, with an exported model.

    python -m export.predict IMAGE... --model=EXPORT_DIR/saved_model --top=3

or with `--model=EXPORT_DIR/model.tflite`. Prints the most likely classes of
each image with their probabilities, after about five seconds of start-up.

This file needs TensorFlow alone, and ai-edge-litert for a `.tflite` file: it
may be copied to a machine that has nothing else of this project.
"""

import json
import pathlib
import sys
import zipfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

_MODEL = flags.DEFINE_string(
    "model", None, "SavedModel folder or .tflite file of an export. Required."
)
_TOP = flags.DEFINE_integer(
    "top", 3, "Number of classes to print for each image.", lower_bound=1
)

# Function (contents of an image file) -> probabilities `(classes,)`.
Classify = Callable[[bytes], np.ndarray]


class InputError(Exception):
    """What the user can mend; its message, one line, is all they see."""


def read_metadata(model_path: pathlib.Path) -> dict:
    """Reads the class names and image size that travel with a model.

    Args:
        model_path: SavedModel folder or `.tflite` file.

    Returns:
        `class_names`, `image_size`, `channels` and `crop_fraction`.

    Raises:
        InputError: If there is no such model, or it carries no metadata.
    """
    is_saved_model = (model_path / "saved_model.pb").is_file()
    is_tflite = model_path.suffix == ".tflite" and model_path.is_file()
    if not is_saved_model and not is_tflite:
        raise InputError(
            "--model must be a SavedModel folder or a .tflite file. "
            f"Received: {model_path}"
        )
    try:
        if is_saved_model:
            return json.loads(
                (model_path / "assets" / "metadata.json").read_bytes()
            )
        with zipfile.ZipFile(model_path) as archive:
            return json.loads(archive.read("metadata.json"))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            "--model must be written by export.export_model, which adds "
            f"metadata.json. Received: {model_path}"
        ) from error


def load_model(model_path: pathlib.Path, metadata: dict) -> Classify:
    """Loads an exported model.

    Args:
        model_path: SavedModel folder or `.tflite` file.
        metadata: what `read_metadata` returns for it.

    Returns:
        Function from the contents of an image file to probabilities
        `(classes,)`.
    """
    if model_path.suffix == ".tflite":
        return _load_tflite(model_path, metadata)
    return _load_saved_model(model_path)


def decode_image(contents: bytes, channels: int) -> tf.Tensor:
    """Decodes a PNG, JPEG, BMP or the first frame of a GIF.

    Args:
        contents: contents of an image file.
        channels: 1 for grayscale or 3 for colors.

    Returns:
        uint8, `(height, width, channels)`.

    Raises:
        tf.errors.InvalidArgumentError: If the contents are no such image.
    """
    return tf.io.decode_image(contents, channels, expand_animations=False)


def prepare_image(
    image: tf.Tensor, image_size: int, crop_fraction: float
) -> tf.Tensor:
    """Cuts the central square out of an image and resizes it.

    A SavedModel does this itself, a TensorFlow Lite file does not.

    Args:
        image: `(height, width, channels)`, 0 to 255.
        image_size: height and width of the result in pixels.
        crop_fraction: side of the square over the image's shorter side.

    Returns:
        float32, `(image_size, image_size, channels)`, 0 to 255.
    """
    height, width, _ = image.shape
    # In float32 and half to even, as the SavedModel rounds.
    side = np.round(np.float32(min(height, width)) * np.float32(crop_fraction))
    side = max(1, int(side))
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    return tf.image.resize(square, (image_size, image_size), antialias=True)


def _load_saved_model(path):
    model = tf.saved_model.load(str(path))

    def classify(contents):
        outputs = model.signatures["image_bytes"](tf.constant([contents]))
        return outputs["probabilities"][0].numpy()

    return classify


def _load_tflite(path, metadata):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (input_details,) = interpreter.get_input_details()
    (output_details,) = interpreter.get_output_details()

    def classify(contents):
        image = prepare_image(
            decode_image(contents, metadata["channels"]),
            metadata["image_size"],
            metadata["crop_fraction"],
        )
        interpreter.set_tensor(input_details["index"], image[None])
        interpreter.invoke()
        return interpreter.get_tensor(output_details["index"])[0]

    return classify


def _read_image(path, channels):
    try:
        contents = pathlib.Path(path).read_bytes()
        decode_image(contents, channels)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except tf.errors.InvalidArgumentError as error:
        raise InputError(
            f"{path} must be a PNG, JPEG, BMP or GIF image, but cannot be "
            "decoded."
        ) from error
    return contents


def _format_classes(probabilities, class_names, top):
    best = np.argsort(-probabilities, kind="stable")[:top]
    return "\n".join(
        f"  {probabilities[n]:7.2%}  {class_names[n]}" for n in best
    )


def main(argv: list[str]) -> None:
    image_paths = argv[1:]
    try:
        if not image_paths:
            raise InputError("At least one image file must be given.")
        if _MODEL.value is None:
            raise InputError("--model must be given.")
        model_path = pathlib.Path(_MODEL.value)
        metadata = read_metadata(model_path)
        # All of them, before the model is loaded and anything is printed.
        images = [_read_image(p, metadata["channels"]) for p in image_paths]
    except InputError as error:
        sys.exit(f"Error: {error}")
    classify = load_model(model_path, metadata)
    for path, contents in zip(image_paths, images, strict=True):
        print(path)
        print(
            _format_classes(
                classify(contents), metadata["class_names"], _TOP.value
            )
        )


def run() -> None:
    # Flags may follow the images.
    flags.FLAGS.set_gnu_getopt()
    app.run(main)


if __name__ == "__main__":
    run()
