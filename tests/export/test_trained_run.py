"""From training to the classes of image files."""

import subprocess

import numpy as np
import pytest
import tensorflow as tf

from export.exporter import export_classifier
from export.formats import FORMATS
from export.trained_classifier import load_classifier
from tests.support.programs import Program
from tests.support.programs import run_in_this_process
from trainers import evaluation
from trainers.data.datasets import open_dataset
from trainers.data.preprocessing import prepare_image

PREDICT = Program("export.predict")


def test_run_is_exported_and_predicts_from_each_format(
    trained, tmp_path, monkeypatch, capsys
):
    """From the flags of training to the top class of an image file."""
    monkeypatch.setattr(subprocess, "run", run_in_this_process)
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
    for model_format in FORMATS:
        capsys.readouterr()
        model_path = export_dir / model_format.file_name
        with pytest.raises(SystemExit) as end:
            PREDICT.start(*paths, f"--model={model_path}", "--top=1")
        assert not end.value.code
        # A line with the path, then one with the probability and the class.
        printed = capsys.readouterr().out
        lines = [line.split() for line in printed.splitlines()]
        assert [line[0] for line in lines[::2]] == list(map(str, paths))
        assert [line[1] for line in lines[1::2]] == list(map(str, expected))
