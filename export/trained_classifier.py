"""Reads what training left behind as one float32 model and its labels."""

import contextlib
import dataclasses
import pathlib
import textwrap
import zipfile
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

# Keras finds the layers of a saved model among those that are imported.
import lambda_keras  # noqa: F401
from trainers import run_folder
from trainers.program import UserError

_PREPROCESSING = (
    "Decode to `channels` channels, a JPEG upright by its EXIF orientation; "
    "cut out the central square whose side is `crop_fraction` of the shorter "
    "side, rounded to a pixel; resize bilinearly, with antialiasing, to "
    "`image_size` x `image_size` pixels; keep the range 0 to 255."
)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained network and what must be known to use it.

    Attributes:
        model: float32 images `(batch_size, image_size, image_size, channels)`
            from 0 to 255 -> probabilities `(batch_size, classes)`.
        class_names: one name per class.
        crop_fraction: side of the central square that is looked at, over the
            image's shorter side.
    """

    model: keras.Model
    class_names: list[str]
    crop_fraction: float

    @property
    def image_size(self) -> int:
        return self.model.input_shape[1]

    @property
    def channels(self) -> int:
        return self.model.input_shape[3]

    def describe(self) -> dict:
        """Returns what travels with each exported file."""
        return {
            "class_names": self.class_names,
            "image_size": self.image_size,
            "channels": self.channels,
            "crop_fraction": self.crop_fraction,
            "preprocessing": _PREPROCESSING,
        }


def load_classifier(path: pathlib.Path) -> Classifier:
    """Reads a `.keras` file and the metadata.json beside it.

    Without metadata.json the classes are numbered, and whole images are
    looked at.

    Args:
        path: the `.keras` file. Its model may return logits or probabilities,
            and may compute in half precision.

    Returns:
        The classifier, in float32 and ending in a softmax.

    Raises:
        UserError: If a file is missing, damaged or does not fit.
    """
    if not path.is_file():
        raise UserError(f"--model must be a .keras file. Received: {path}")
    if not zipfile.is_zipfile(path):
        raise UserError(f"--model is no .keras file, or is cut off: {path}")
    model = _load_model(path)
    _check_model(model, path)
    with _explaining("a network that can be run", path):
        model = end_in_softmax(convert_to_float32(model))
    class_names, crop_fraction = _read_metadata(
        path.with_name(run_folder.METADATA_FILE), model.output_shape[-1]
    )
    return Classifier(model, class_names, crop_fraction)


def convert_to_float32(model: keras.Model) -> keras.Model:
    """Returns a model that computes in float32, with the same weights.

    Args:
        model: a model of any dtype policies. Mixed precision stores float32
            weights, which are therefore taken over exactly.

    Returns:
        `model` itself if it computes in float32 already.
    """
    config = keras.saving.serialize_keras_object(model)
    float32_config = _replace_half_precision(config)
    if float32_config == config:
        return model
    converted = keras.saving.deserialize_keras_object(float32_config)
    converted.set_weights(model.get_weights())
    return converted


def end_in_softmax(model: keras.Model) -> keras.Model:
    """Appends a softmax to a model, unless it returns probabilities already.

    What a model returns says so more surely than its last layer, which may
    be nested, a cast, or of any class.

    Args:
        model: images from 0 to 255 -> `(batch_size, classes)`.

    Raises:
        UserError: If it returns NaN or infinity.
    """
    images = np.random.default_rng(0).uniform(
        0, 255, (4, *model.input_shape[1:])
    )
    outputs = model.predict(images.astype("float32"), verbose=0)
    if not np.isfinite(outputs).all():
        raise UserError(
            "--model must return finite numbers. Received: "
            f"{outputs[~np.isfinite(outputs)][0]}, of noise"
        )
    sums_to_one = np.allclose(outputs.sum(axis=-1), 1, atol=1e-3)
    if sums_to_one and outputs.min() >= 0:
        return model
    probabilities = keras.layers.Softmax(name="probabilities")(model.output)
    return keras.Model(model.input, probabilities, name=model.name)


def _replace_half_precision(config):
    if isinstance(config, dict):
        return {k: _replace_half_precision(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_replace_half_precision(v) for v in config)
    half = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")
    return "float32" if config in half else config


def _load_model(path):
    if not run_folder.is_whole_model(path):
        raise UserError(
            "--model is damaged, by its checksums; copy or train it once more. "
            f"Received: {path}"
        )
    # A whole file may hold something else, or layers of another program.
    with _explaining("a .keras file that Keras can load", path):
        return keras.saving.load_model(path, compile=False, safe_mode=True)


@contextlib.contextmanager
def _explaining(rule: str, path: pathlib.Path) -> Iterator[None]:
    """Makes one line of what Keras raises of a model within the block."""
    try:
        yield
    except (*run_folder.KERAS_ERRORS, MemoryError, tf.errors.OpError) as error:
        # Before the cause, Keras shows all of the model.
        _, _, cause = str(error).rpartition("Exception encountered: ")
        reason = textwrap.shorten(cause, 200, placeholder="...")
        raise UserError(
            f"--model must be {rule}: {type(error).__name__}: {reason} "
            f"Received: {path}"
        ) from error


def _check_model(model, path):
    # Layers and models of other kinds have none.
    shape = getattr(model, "input_shape", None)
    output_shape = getattr(model, "output_shape", None)
    are_single = isinstance(shape, tuple) and isinstance(output_shape, tuple)
    if (
        not are_single
        or len(shape) != 4
        or shape[1] != shape[2]
        or shape[1] is None
        or shape[3] not in (1, 3)
        or len(output_shape) != 2
    ):
        raise UserError(
            "--model must map square images of a fixed size, with 1 or 3 "
            f"channels, to classes. Received: {shape} -> {output_shape} in "
            f"{path}"
        )


def _read_metadata(path, num_classes):
    if not path.exists():
        print(
            f"There is no {path}: the classes are called 0 to "
            f"{num_classes - 1}, and images are not cropped beyond the square."
        )
        return [str(n) for n in range(num_classes)], 1.0
    metadata = run_folder.read_metadata(path)
    class_names = metadata["class_names"]
    if len(class_names) != num_classes:
        raise UserError(
            f"{path} must name each class of the model. Received: "
            f"{len(class_names)} names for {num_classes} classes"
        )
    return class_names, metadata["crop_fraction"]
