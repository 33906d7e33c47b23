"""From training to the classes of image files."""

import numpy as np
import pytest
import tensorflow as tf

from export import example_images
from export import exporter
from export.exporter import export_classifier
from export.exporter import read_report
from export.trained_classifier import load_classifier
from tests.support.programs import Program
from tests.support.programs import run_in_this_process
from trainers import evaluation
from trainers.data.preprocessing import prepare_image

PREDICT = Program("export.predict")


def test_run_is_exported_and_predicts(trained, tmp_path, monkeypatch, capsys):
    """From the flags of training to the top class of an image file."""
    monkeypatch.setattr(exporter, "run_to_end", run_in_this_process)
    export_dir = tmp_path / "export"
    digits, name = example_images.open_training_data(trained / "best.keras")
    export_classifier(
        load_classifier(trained / "best.keras"),
        export_dir,
        formats=["saved_model", "tflite_int8"],
        representative_images=example_images.take_representative(digits),
        examples=example_images.take_held_out(digits, name),
        # After an epoch or two, many digits are between two classes.
        min_agreement=0.9,
    )
    report = read_report(export_dir)
    assert report["examples"] == "360 images held out of digits"
    for row in report["formats"].values():
        assert abs(row["accuracy"] - report["accuracy"]) < 0.05
    scans = digits.validation.examples.take(3)
    paths, images = [], []
    for number, (image, _) in enumerate(scans):
        paths.append(tmp_path / f"scan{number}.png")
        paths[-1].write_bytes(tf.io.encode_png(image).numpy())
        images.append(prepare_image(image, 16, crop_fraction=1.0))
    model = evaluation.load_model(trained / "best.keras")
    expected = model.predict(np.stack(images), verbose=0).argmax(axis=-1)
    for row in report["formats"].values():
        capsys.readouterr()
        model_path = export_dir / row["file"]
        with pytest.raises(SystemExit) as end:
            PREDICT.start(*paths, f"--model={model_path}", "--top=1")
        assert not end.value.code
        # A line with the path, then one with the probability and the class.
        printed = capsys.readouterr().out
        lines = [line.split() for line in printed.splitlines()]
        assert [line[0] for line in lines[::2]] == list(map(str, paths))
        assert [line[1] for line in lines[1::2]] == list(map(str, expected))
