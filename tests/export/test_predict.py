import json
import re
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

from export import predict
from tests.conftest import CLASS_NAMES
from trainers.data import preprocessing

# Runs a program as on a machine that has nothing else of this project.
_RUN_ALONE = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("export", "lambda_keras", "trainers"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def image_path(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (25, 33, 1))
    path = tmp_path / "scan.png"
    path.write_bytes(tf.io.encode_png(image.astype("uint8")).numpy())
    return path


@pytest.mark.parametrize("model_name", ["saved_model", "model.tflite"])
def test_predict_alone_prints_what_keras_says(
    model_dir, export_dir, image_path, model_name
):
    program = shutil.copy(predict.__file__, image_path.with_name("predict.py"))
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            _RUN_ALONE,
            program,
            image_path.name,
            f"--model={export_dir / model_name}",
            "--top=2",
        ],
        cwd=image_path.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    model = keras.saving.load_model(model_dir / "best.keras")
    image = preprocessing.prepare_image(
        preprocessing.decode_image(image_path.read_bytes(), channels=1),
        image_size=16,
        crop_fraction=0.875,
    )
    probabilities = keras.ops.softmax(model(image[None])[0]).numpy()
    path, *lines = result.stdout.splitlines()
    assert path == "scan.png"
    assert all(re.fullmatch(r"  [ \d]{3}\.\d\d%  class .", x) for x in lines)
    printed = {x[-len("class x") :]: float(x[2:8]) / 100 for x in lines}
    best = np.argsort(-probabilities)[:2]
    # To the two digits printed, of which the last may be rounded otherwise.
    assert list(printed) == [CLASS_NAMES[n] for n in best]
    np.testing.assert_allclose(
        list(printed.values()), probabilities[best], atol=1.5e-4
    )


@pytest.mark.parametrize("crop_fraction", [1.0, 0.875, 0.5])
@pytest.mark.parametrize(
    "shape",
    [(16, 16, 1), (29, 40, 3), (51, 20, 3), (1, 5, 1)],
    ids=["square", "wide", "tall", "thin"],
)
def test_predict_prepares_images_as_evaluation_does(shape, crop_fraction):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(
        predict.prepare_image(tf.constant(image), 16, crop_fraction),
        preprocessing.prepare_image(tf.constant(image), 16, crop_fraction),
    )


@pytest.fixture
def run_predict(monkeypatch):
    """Runs the program in this process, and fails if it loads a model."""
    monkeypatch.setattr(predict, "load_model", None)
    flags.FLAGS.mark_as_parsed()

    def run(model, *image_paths):
        with flagsaver.flagsaver((predict._MODEL, model and str(model))):
            predict.main(["predict", *map(str, image_paths)])

    return run


@pytest.fixture
def tflite_path(tmp_path):
    """A file of which only the metadata is read."""
    path = tmp_path / "model.tflite"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"channels": 1}))
    return path


def test_corrupt_image_is_named(run_predict, tflite_path, image_path):
    corrupt = image_path.with_name("corrupt.png")
    corrupt.write_bytes(image_path.read_bytes()[:100])
    with pytest.raises(SystemExit, match=r"corrupt\.png must be a PNG"):
        run_predict(tflite_path, image_path, corrupt)


def test_missing_image_is_named(run_predict, tflite_path, image_path):
    absent = image_path.with_name("absent.png")
    with pytest.raises(SystemExit, match=r"absent\.png cannot be read: No"):
        run_predict(tflite_path, image_path, absent)


def test_images_must_be_given(run_predict, tflite_path):
    with pytest.raises(SystemExit, match="image file must be given"):
        run_predict(tflite_path)


def test_model_must_be_given(run_predict, image_path):
    with pytest.raises(SystemExit, match="--model must be given"):
        run_predict(None, image_path)


@pytest.mark.parametrize("name", ["absent.tflite", "absent", "scan.png", "."])
def test_path_of_no_model_is_named(run_predict, image_path, name):
    path = image_path.parent / name
    with pytest.raises(SystemExit, match=f"Received: {path}$"):
        run_predict(path, image_path)


def test_model_without_metadata_is_refused(run_predict, image_path):
    path = image_path.with_name("foreign.tflite")
    path.write_bytes(b"TFL3")
    with pytest.raises(SystemExit, match=r"written by export\.export_model"):
        run_predict(path, image_path)
