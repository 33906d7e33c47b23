r"""Writes a classifier in formats, in a process that may die of it.

    python -m export.write_formats --model=FILE.keras --export_dir=EXPORT_DIR \
        --formats=tflite,tflite_int8 --images=FILE.npy

`export.export_model` runs this, because a converter can end the process it
runs in. metadata.json lies beside FILE.keras. FILE.npy holds float32 images
such as the network will see, `(examples, image_size, image_size, channels)`,
cropped and resized. Each format is there once it is whole.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("export.write_formats")

import pathlib

import numpy as np
import tensorflow as tf
from absl import flags
from absl import logging

from export.formats import FORMATS
from export.trained_classifier import load_classifier
from trainers.program import run_program

_MODEL = flags.DEFINE_string("model", None, "A .keras file.", required=True)
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Folder to write to.", required=True
)
_FORMATS = flags.DEFINE_list(
    "formats", None, "Names of the formats, in this order.", required=True
)
_IMAGES = flags.DEFINE_string(
    "images", None, "npy file with images, for the formats that need some."
)


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.ERROR)
    tf.config.set_visible_devices([], "GPU")
    classifier = load_classifier(pathlib.Path(_MODEL.value))
    images = np.load(_IMAGES.value) if _IMAGES.value else None
    export_dir = pathlib.Path(_EXPORT_DIR.value)
    formats = {model_format.name: model_format for model_format in FORMATS}
    for name in _FORMATS.value:
        path = export_dir / formats[name].file_name
        # A process that dies while it writes leaves nothing of that name.
        unfinished = path.with_name(f"unfinished_{path.name}")
        formats[name].write(classifier, unfinished, images)
        unfinished.rename(path)


def run() -> None:
    run_program(main)
