"""From training to the classes of image files."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from export.exporter import export_classifier
from export.trained_classifier import load_classifier
from trainers import evaluation
from trainers.data.datasets import open_dataset
from trainers.data.preprocessing import prepare_image


def start_prediction(paths, model):
    arguments = [*map(str, paths), f"--model={model}", "--top=1"]
    return subprocess.Popen(
        [sys.executable, "-m", "export.predict", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_run_is_exported_and_predicts_from_both_files(trained, tmp_path):
    """From the flags of training to the top class of an image file."""
    export_dir = tmp_path / "export"
    export_classifier(load_classifier(trained / "best.keras"), export_dir)
    scans = open_dataset("digits").validation.examples.take(3)
    paths, images = [], []
    for number, (image, _) in enumerate(scans):
        paths.append(tmp_path / f"scan{number}.png")
        paths[-1].write_bytes(tf.io.encode_png(image).numpy())
        images.append(prepare_image(image, 16, crop_fraction=1.0))
    model = evaluation.load_model(trained / "best.keras")
    expected = model.predict(np.stack(images), verbose=0).argmax(axis=-1)
    processes = [
        start_prediction(paths, export_dir / file)
        for file in ("saved_model", "model.tflite")
    ]
    for process in processes:
        printed, _ = process.communicate()
        assert process.returncode == 0
        # A line with the path, then one with the probability and the class.
        lines = [line.split() for line in printed.splitlines()]
        assert [line[0] for line in lines[::2]] == list(map(str, paths))
        assert [line[1] for line in lines[1::2]] == list(map(str, expected))
