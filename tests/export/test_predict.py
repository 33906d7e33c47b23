import json
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from export import preprocessing
from export.formats import FORMATS
from tests.conftest import CLASS_NAMES
from tests.support.programs import Program
from trainers.data import preprocessing as trainers_preprocessing

PROGRAM = Program("export.predict")

# Runs the program with each of the models, as on a machine that has nothing
# else of this project, and ends with its exit codes.
_RUN_ALONE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("lambda_keras", "trainers"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
from export import predict

loaded = {"ai_edge_litert", "keras", "tensorflow"} & set(sys.modules)
assert not loaded, loaded
codes = []
image, *models = sys.argv[1:]
for model in models:
    sys.argv = ["predict", image, f"--model={model}", "--top=2"]
    try:
        predict.run()
    except SystemExit as end:
        codes.append(end.code)
print(codes, predict.__file__)
"""


@pytest.fixture
def image_path(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (25, 33, 1))
    path = tmp_path / "scan.png"
    path.write_bytes(tf.io.encode_png(image.astype("uint8")).numpy())
    return path


def compute_expected(model_dir, image_path):
    model = keras.saving.load_model(model_dir / "best.keras")
    image = trainers_preprocessing.prepare_image(
        trainers_preprocessing.decode_image(
            image_path.read_bytes(), channels=1
        ),
        image_size=16,
        crop_fraction=0.875,
    )
    return keras.ops.softmax(model(image[None])[0]).numpy()


@pytest.mark.parametrize(
    ("file_name", "package"),
    [
        ("model.onnx", "onnxruntime"),
        ("model.tflite", "ai_edge_litert"),
    ],
)
def test_missing_package_is_one_line(
    export_dir, image_path, monkeypatch, capsys, file_name, package
):
    for name in [name for name in sys.modules if name.startswith(package)]:
        monkeypatch.delitem(sys.modules, name)

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No {name}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Blocker(), *sys.meta_path])
    with pytest.raises(SystemExit) as end:
        PROGRAM.start(image_path, f"--model={export_dir / file_name}")
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert f"Error: {package}" in errors
    assert "must be installed" in errors
    assert errors.count("\n") == 1


def test_a_copy_of_the_folder_prints_what_keras_says(
    model_dir, export_dir, image_path
):
    source = pathlib.Path(PROGRAM.module.__file__).parent
    folder = shutil.copytree(source, image_path.with_name("export"))
    models = [
        export_dir / model_format.file_name
        for model_format in FORMATS
        # The others round weights.
        if model_format.tolerance < 1e-3
    ]
    result = subprocess.run(
        [sys.executable, "-c", _RUN_ALONE, image_path.name, *models, "none"],
        cwd=image_path.parent,
        # The project itself may be on the path.
        env={"TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, end = result.stdout.splitlines()
    codes = [None] * len(models) + [2]
    assert end == f"{codes} {folder / 'predict.py'}"
    last_error = result.stderr.splitlines()[-1]
    assert last_error.startswith("Error: --model must be a SavedModel folder")
    probabilities = compute_expected(model_dir, image_path)
    best = np.argsort(-probabilities)[:2]
    assert len(lines) == 3 * len(models)
    for number in range(len(models)):
        path, *classes = lines[3 * number : 3 * number + 3]
        assert path == "scan.png"
        for line, index in zip(classes, best, strict=True):
            found = re.fullmatch(r"  ([ \d]{3}\.\d\d)%  (class .)", line)
            assert found[2] == CLASS_NAMES[index]
            # To the two digits printed, the last of which may be rounded
            # otherwise.
            assert float(found[1]) / 100 == pytest.approx(
                probabilities[index], abs=1.5e-4
            )


@pytest.mark.parametrize("crop_fraction", [1.0, 0.875, 0.5])
@pytest.mark.parametrize(
    "shape",
    [(16, 16, 1), (29, 40, 3), (51, 20, 3), (1, 5, 1)],
    ids=["square", "wide", "tall", "thin"],
)
def test_images_are_prepared_as_evaluation_does(shape, crop_fraction):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(
        preprocessing.prepare_image(image, 16, crop_fraction),
        trainers_preprocessing.prepare_image(image, 16, crop_fraction),
    )


@pytest.fixture
def predict(monkeypatch, capsys):
    """Runs the command to its error, which is returned; loads no model."""
    formats = [model_format._replace(load=None) for model_format in FORMATS]
    monkeypatch.setattr(PROGRAM.module, "FORMATS", formats)

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            PROGRAM.start(*arguments)
        printed = capsys.readouterr()
        assert printed.out == ""
        assert end.value.code == 2
        (line,) = printed.err.splitlines()
        return line

    return run


@pytest.fixture
def tflite_path(tmp_path):
    """A file of which only the metadata is read."""
    path = tmp_path / "model.tflite"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"channels": 1}))
    return path


def test_corrupt_image_is_named(predict, tflite_path, image_path):
    corrupt = image_path.with_name("corrupt.png")
    corrupt.write_bytes(image_path.read_bytes()[:100])
    line = predict(image_path, corrupt, f"--model={tflite_path}")
    assert line.startswith(f"Error: {corrupt} must be a PNG")


def test_missing_image_is_named(predict, tflite_path, image_path):
    absent = image_path.with_name("absent.png")
    line = predict(image_path, absent, f"--model={tflite_path}")
    assert line == f"Error: {absent} cannot be read: No such file or directory"


def test_images_must_be_given(predict, tflite_path):
    assert "image file must be given" in predict(f"--model={tflite_path}")


def test_model_must_be_given(predict, image_path):
    assert "--model must be given" in predict(image_path)


@pytest.mark.parametrize("name", ["absent.tflite", "absent", "scan.png", "."])
def test_path_of_no_model_is_named(predict, image_path, name):
    path = image_path.parent / name
    line = predict(image_path, f"--model={path}")
    assert line.endswith(f"Received: {path}")


@pytest.mark.parametrize("name", ["foreign.tflite", "foreign"])
def test_model_without_metadata_is_refused(predict, image_path, name):
    path = image_path.with_name(name)
    if path.suffix:
        path.write_bytes(b"TFL3")
    else:
        path.mkdir()
        (path / "saved_model.pb").touch()
    line = predict(image_path, f"--model={path}")
    assert "must be written by export.export_model" in line


def test_unknown_flag_is_one_line(predict):
    assert predict("--modle=x").endswith("Did you mean: model ? See --help.")


@pytest.mark.slow
def test_help_shows_the_program_and_its_flags():
    output = subprocess.check_output(
        [sys.executable, "-m", "export.predict", "--help"], text=True
    )
    assert output.startswith("Says what is in images")
    assert "\nflags:\n" in output
    assert "--top: Number of classes" in output


def test_interrupted_prediction_ends_in_a_line(monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(PROGRAM.module, "main", interrupt)
    with pytest.raises(SystemExit) as end:
        PROGRAM.start()
    assert end.value.code == 130
    assert capsys.readouterr().err == "\nStopped.\n"
