"""The program in a process of its own, with what was exported."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import export
from export.formats import FORMATS
from tests.conftest import CLASS_NAMES
from tests.support.programs import Program
from trainers.data import decoding
from trainers.data import preprocessing

FOLDER = pathlib.Path(export.__file__).parent

# Runs the program with each of the models, as on a machine that has nothing
# else of this project, nor, until the SavedModel, TensorFlow and its company.
_RUN_ALONE = """
import sys

class Blocker:
    blocked = {
        "absl", "google", "h5py", "keras", "lambda_keras", "matplotlib",
        "onnx", "scipy", "sklearn", "tensorflow", "tf2onnx", "tf_keras",
        "tqdm", "trainers",
    }

    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package in self.blocked:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
from export import predict

codes = []
image, *models = sys.argv[1:]
for model in models:
    if model.endswith("saved_model"):
        Blocker.blocked = {"lambda_keras", "trainers"}
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
    image = preprocessing.prepare_image(
        decoding.decode_image(image_path.read_bytes(), channels=1),
        image_size=16,
        crop_fraction=0.875,
    )
    return keras.ops.softmax(model(image[None])[0]).numpy()


@pytest.mark.parametrize(
    ("file_name", "package"),
    [
        ("model.onnx", "onnxruntime"),
        ("model.tflite", "ai-edge-litert"),
    ],
)
def test_missing_package_is_one_line(
    export_dir, image_path, monkeypatch, capsys, file_name, package
):
    module = package.replace("-", "_")
    for name in [name for name in sys.modules if name.startswith(module)]:
        monkeypatch.delitem(sys.modules, name)

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == module:
                raise ModuleNotFoundError(f"No {name}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Blocker(), *sys.meta_path])
    program = Program("export.predict")
    with pytest.raises(SystemExit) as end:
        program.start(image_path, f"--model={export_dir / file_name}")
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert f"Error: {package} must be installed" in errors
    assert errors.count("\n") == 1


def test_a_copy_of_the_folder_prints_what_keras_says(
    model_dir, export_dir, image_path
):
    folder = shutil.copytree(FOLDER, image_path.with_name("export"))
    models = [
        export_dir / model_format.file_name
        # TensorFlow last.
        for model_format in reversed(FORMATS)
        # The others round weights.
        if model_format.tolerance < 1e-3
    ]
    assert [model.name for model in models][-1] == "saved_model"
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
    codes = [0] * len(models) + [2]
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


@pytest.fixture
def start(export_dir):
    """Starts the program, which reads the names of files one by one."""
    stack = contextlib.ExitStack()

    def start(stdout):
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "export.predict", "-"),
                f"--model={export_dir / 'model.onnx'}",
                *("--batch_size=1", "--format=json"),
            ],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            cwd=FOLDER.parent,
            env=os.environ | {"PYTHONPATH": str(FOLDER.parent)},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        stack.enter_context(process)
        stack.callback(process.kill)
        return process

    with stack:
        yield start


def test_each_batch_is_printed_at_once_and_ctrl_c_is_one_line(
    start, image_path
):
    process = start(subprocess.PIPE)
    for _ in range(2):
        process.stdin.write(f"{image_path}\n")
        process.stdin.flush()
        record = json.loads(process.stdout.readline())
        assert record["path"] == str(image_path)
        assert len(record["classes"]) == 3
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert process.stderr.read() == "\nStopped.\n"


def test_pipe_that_is_closed_ends_it_silently(start, image_path):
    process = start(subprocess.PIPE)
    process.stdout.close()
    process.stdin.write(f"{image_path}\n")
    process.stdin.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == ""


@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="Needs a disk that is full."
)
def test_full_disk_is_one_line(start, image_path):
    with open("/dev/full", "w") as stdout:
        process = start(stdout)
        process.stdin.write(f"{image_path}\n")
        process.stdin.close()
        assert process.wait(timeout=60) == 2
    assert process.stderr.read() == (
        "Error: Standard output cannot be written: No space left on device\n"
    )
