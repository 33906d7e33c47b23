"""The table of formats: its images, and what it hands to the export."""

import json

import keras
import numpy as np
import pytest

import lambda_keras
from export import exporter
from tests.support.programs import Program

PROGRAM = Program("benchmarks.export_formats")
export_formats = PROGRAM.module


def test_the_class_of_an_image_is_its_hue():
    images, labels = export_formats.make_images(200, 32, seed=0)
    assert len(set(labels)) == 10
    turns = np.exp(2j * np.pi * np.arange(3) / 3)
    hues = np.angle(images.mean(axis=(1, 2)) @ turns) / (2 * np.pi) * 10
    distances = np.abs((hues - labels + 5) % 10 - 5)
    # So that classes can be told apart, but not always.
    assert np.mean(distances < 0.5) > 0.9
    assert distances.max() > 0.5


def test_what_is_exported_has_images_with_classes(tmp_path, monkeypatch):
    def build(name, input_shape, num_classes):
        inputs = keras.Input(input_shape)
        x = keras.layers.GlobalAveragePooling2D()(inputs)
        return keras.Model(
            inputs, keras.layers.Dense(num_classes, "softmax")(x)
        )

    exported = []
    monkeypatch.setattr(lambda_keras, "build_network", build)
    monkeypatch.setattr(
        exporter,
        "export_classifier",
        lambda *arguments, **settings: exported.append((arguments, settings)),
    )
    monkeypatch.setattr(exporter, "format_table", str)
    PROGRAM.run(image_size=32, steps=1, output=str(tmp_path / "new"))
    ((classifier, folder), settings) = exported.pop()
    assert folder == tmp_path / "new" / "export"
    assert classifier.image_size == 32
    assert len(settings["representative_images"]) == 100
    examples = settings["examples"]
    assert len(examples.images) == len(examples.labels) == 100
    metadata = json.loads((tmp_path / "new" / "metadata.json").read_text())
    assert metadata["class_names"] == classifier.class_names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output is missing"),
        (["--output=x", "--network=vgg"], "--network must be some of "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit):
        PROGRAM.start(*arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {message}")
