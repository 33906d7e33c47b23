import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

import lambda_keras
from export import exporter
from export.export_folder import list_files
from export.formats import FORMATS
from export.formats import onnx as onnx_format
from export.formats.tflite import count_operators
from export.formats.tflite import list_operators
from export.trained_classifier import convert_to_float32
from export.trained_classifier import end_in_softmax
from export.trained_classifier import load_classifier
from tests.conftest import CLASS_NAMES
from tests.support.programs import Program
from tests.support.programs import run_in_this_process
from trainers.data.decoding import decode_image
from trainers.data.preprocessing import prepare_image
from trainers.program import UserError

CROP_FRACTION = 0.875
# Of probabilities. Sums in another order differ by some 2e-6 here.
TOLERANCE = 2e-5
# The first row of pixels is to the right.
EXIF = (
    b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
)
EMPTY_REPORT = {
    "examples": "noise",
    "accuracy": None,
    "formats": {},
    "failures": {},
}

verify_export = Program("export.verify_export").module


@pytest.fixture(scope="module")
def program():
    return Program("export.export_model")


@pytest.fixture(scope="module")
def keras_model(model_dir):
    return keras.saving.load_model(model_dir / "best.keras")


@pytest.fixture(scope="module")
def saved_model(export_dir):
    return tf.saved_model.load(str(export_dir / "saved_model"))


def make_image(height, width, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 1), dtype=np.uint8)


def compute_expected(keras_model, images):
    prepared = [prepare_image(image, 16, CROP_FRACTION) for image in images]
    return keras.ops.softmax(keras_model(np.stack(prepared))).numpy()


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "size", [(16, 16), (23, 41), (11, 7)], ids=["same", "wide", "small"]
)
def test_saved_model_of_images_equals_keras(
    saved_model, keras_model, batch_size, size
):
    images = [make_image(*size, seed) for seed in range(batch_size)]
    outputs = saved_model.signatures["serving_default"](
        tf.constant(np.stack(images), tf.float32)
    )
    np.testing.assert_allclose(
        outputs["probabilities"],
        compute_expected(keras_model, images),
        atol=TOLERANCE,
    )


def test_saved_model_of_files_prepares_each_size_as_in_evaluation(
    saved_model, keras_model
):
    images = [make_image(29, 17), make_image(16, 16), make_image(20, 53)]
    jpeg = tf.io.encode_jpeg(make_image(20, 31)).numpy()
    files = [
        tf.io.encode_png(images[0]),
        tf.io.encode_jpeg(images[1]),
        tf.io.encode_png(images[2]),
        # To be turned by a quarter.
        jpeg[:2] + b"\xff\xe1\0\x22" + EXIF + jpeg[2:],
    ]
    outputs = saved_model.signatures["image_bytes"](tf.stack(files))
    decoded = [decode_image(contents, channels=1) for contents in files[:3]]
    upright = tf.io.decode_jpeg(jpeg, dct_method="INTEGER_ACCURATE")
    decoded.append(np.rot90(upright, -1))
    np.testing.assert_allclose(
        outputs["probabilities"],
        compute_expected(keras_model, decoded),
        atol=TOLERANCE,
    )


def test_bad_file_costs_the_others_of_its_batch_nothing(
    saved_model, keras_model
):
    classify = saved_model.signatures["image_bytes"]
    good = tf.io.encode_png(make_image(20, 31)).numpy()
    bad = [b"", b"no image", good[:99], b"\xff\xd8\xff" + good]
    outputs = classify(tf.constant([good, *bad, good]))
    probabilities = outputs["probabilities"].numpy()
    expected = compute_expected(keras_model, [make_image(20, 31)] * 2)
    np.testing.assert_allclose(probabilities[[0, 5]], expected, atol=TOLERANCE)
    assert np.isnan(probabilities[1:5]).all()
    errors = [error.decode() for error in outputs["errors"].numpy()]
    assert errors[0] == errors[5] == ""
    assert set(errors[1:5]) == {
        "is no PNG, JPEG, BMP, GIF or WebP image, has more than 89478485 "
        "pixels, or is damaged or cut off"
    }
    # All of them.
    outputs = classify(tf.constant(bad))
    assert np.isnan(outputs["probabilities"]).all()


def test_no_images_give_no_rows(saved_model):
    outputs = saved_model.signatures["image_bytes"](tf.zeros(0, tf.string))
    assert outputs["probabilities"].shape == (0, 10)
    assert outputs["errors"].shape == (0,)
    for name in ("serving_default", "features"):
        (output,) = saved_model.signatures[name](
            tf.zeros((0, 9, 9, 1))
        ).values()
        assert output.shape[0] == 0


@pytest.mark.parametrize("name", ["model.tflite", "model.onnx"])
def test_other_formats_take_bad_files_and_none(export_dir, name):
    formats = {f.file_name: f for f in FORMATS}
    classify = formats[name].load(export_dir / name)["image_bytes"]
    good = tf.io.encode_png(make_image(20, 31)).numpy()
    probabilities, errors = classify([good, b"no image", good])
    assert errors == ["", "is no PNG, JPEG, BMP, GIF or WebP image", ""]
    np.testing.assert_allclose(probabilities.sum(axis=-1), [1, np.nan, 1], 1e-5)
    np.testing.assert_array_equal(probabilities[0], probabilities[2])
    probabilities, errors = classify([])
    assert probabilities.shape == (0, 10)
    assert errors == []


def test_features_are_what_the_last_dense_layer_takes(saved_model, keras_model):
    images = [make_image(16, 16, seed) for seed in range(2)]
    outputs = saved_model.signatures["features"](
        tf.constant(np.stack(images), tf.float32)
    )
    # Within the network that is a layer of the model.
    dense = keras_model.layers[-1].get_layer("predictions")
    probabilities = keras.ops.softmax(dense(outputs["features"]))
    np.testing.assert_allclose(
        probabilities, compute_expected(keras_model, images), atol=TOLERANCE
    )


def test_saved_model_carries_what_describes_it(export_dir):
    path = export_dir / "saved_model" / "assets" / "metadata.json"
    metadata = json.loads(path.read_text())
    assert metadata.pop("preprocessing")
    assert metadata == {
        "class_names": CLASS_NAMES,
        "image_size": 16,
        "channels": 1,
        "crop_fraction": CROP_FRACTION,
    }


def test_saved_model_has_folded_normalizations(saved_model, keras_model):
    # Each but those of lambda layers leaves a bias of four variables.
    folded = len(keras_model.variables) - len(saved_model.model_variables)
    assert folded == 3 * 28


def test_tflite_equals_keras(export_dir, keras_model):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(export_dir / "model.tflite"))
    classify = interpreter.get_signature_runner()
    (input_name,) = classify.get_input_details()
    images = [make_image(16, 16, seed).astype("float32") for seed in range(3)]
    outputs = [
        next(iter(classify(**{input_name: image[None]}).values()))[0]
        for image in images
    ]
    expected = keras.ops.softmax(keras_model(np.stack(images)))
    np.testing.assert_allclose(outputs, expected, atol=TOLERANCE)


def test_tflite_needs_built_in_operators_only(export_dir):
    operators = list_operators((export_dir / "model.tflite").read_bytes())
    assert {"CONV_2D", "BATCH_MATMUL", "SOFTMAX"} <= set(operators)
    assert not [name for name in operators if name.startswith("CUSTOM")]


def test_list_operators_names_those_not_built_in():
    invert = tf.function(
        tf.linalg.inv, input_signature=[tf.TensorSpec((3, 3), tf.float32)]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [invert.get_concrete_function()], invert
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.SELECT_TF_OPS]
    assert "CUSTOM:FlexMatrixInverse" in list_operators(converter.convert())


def test_tflite_carries_what_describes_it(export_dir):
    with zipfile.ZipFile(export_dir / "model.tflite") as archive:
        metadata = json.loads(archive.read("metadata.json"))
    assert metadata["class_names"] == CLASS_NAMES
    assert metadata["image_size"] == 16


def test_int8_has_no_float_operators(export_dir):
    floats = count_operators(export_dir / "model.tflite")["float"]
    assert floats["CONV_2D"] > 10
    counts = count_operators(export_dir / "model_int8.tflite")
    assert counts["float"] == {}
    assert counts["all"]["CONV_2D"] == floats["CONV_2D"]


def test_report_says_how_every_format_differs_from_keras(export_dir):
    report = json.loads((export_dir / "export_report.json").read_text())
    assert report["left_out"] == {}
    rows = report["formats"]
    assert [row["file"] for row in rows.values()] == [
        "saved_model",
        "model.tflite",
        "model_float16.tflite",
        "model_dynamic.tflite",
        "model_int8.tflite",
        "model.onnx",
    ]
    for name in ("saved_model", "tflite", "onnx"):
        assert rows[name]["max_difference"] < 1e-4
        assert rows[name]["top1_agreement"] == 1
    # Half of the digits of float32 are lost, and no more.
    assert 1e-5 < rows["tflite_float16"]["max_difference"] < 0.1
    assert rows["tflite_int8"]["max_difference"] > 0.01
    size = rows["tflite"]["size"]
    assert size == (export_dir / "model.tflite").stat().st_size
    assert rows["tflite_float16"]["size"] < 0.6 * size
    assert rows["tflite_dynamic"]["size"] < 0.45 * size
    assert rows["tflite_int8"]["size"] < 0.45 * size
    for row in rows.values():
        assert list(row["latency_ms"]) == ["1", "8"]
        assert min(row["latency_ms"].values()) > 0


def test_report_lists_what_was_written(export_dir):
    report = exporter.read_report(export_dir)
    files = {
        path.relative_to(export_dir).as_posix()
        for path in export_dir.rglob("*")
        if path.is_file()
    }
    assert report["files"].keys() == files - {"export_report.json"}
    assert "saved_model/assets/metadata.json" in files
    model = (export_dir / "model.onnx").read_bytes()
    assert report["files"]["model.onnx"] == hashlib.sha256(model).hexdigest()


def test_page_shows_what_was_measured(export_dir):
    page = (export_dir / "export_report.html").read_text()
    report = exporter.read_report(export_dir)
    assert "/best.keras</bdi></h1>" in page
    for row in report["formats"].values():
        assert row["file"] in page
        assert f"{row['latency_ms']['8']:.2f} ms" in page
    # All of them, as the class of each is known.
    assert page.count("<figure") == page.count("base64,") == 16


def test_table_has_a_row_for_each_file(export_dir):
    table = exporter.format_table(export_dir)
    rows = [line.split() for line in table.splitlines()]
    files = [model_format.file_name for model_format in FORMATS]
    assert [row[0] for row in rows[1:7]] == files
    assert rows[5][5].startswith("0/")
    assert "\nCompared with Keras on noise and smooth patterns.\n" in table


@pytest.mark.parametrize("batch_size", [1, 3])
def test_onnx_equals_keras(export_dir, keras_model, batch_size):
    session = onnxruntime.InferenceSession(export_dir / "model.onnx")
    images = np.stack([make_image(16, 16, seed) for seed in range(batch_size)])
    images = images.astype("float32")
    (outputs,) = session.run(["probabilities"], {"images": images})
    expected = keras.ops.softmax(keras_model(images))
    np.testing.assert_allclose(outputs, expected, atol=TOLERANCE)


def test_onnx_carries_what_describes_it(export_dir):
    model = onnx.load(export_dir / "model.onnx")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    assert versions[""] == 18
    metadata = onnx_format.read_metadata(export_dir / "model.onnx")
    assert metadata["class_names"] == CLASS_NAMES
    assert metadata["crop_fraction"] == CROP_FRACTION


def test_export_leaves_no_other_files(export_dir):
    assert sorted(p.name for p in export_dir.parent.iterdir()) == [
        "best.keras",
        "export",
        "metadata.json",
    ]


@pytest.fixture(scope="module")
def classifier(model_dir):
    return load_classifier(model_dir / "best.keras")


@pytest.fixture
def copied_export(export_dir, tmp_path, monkeypatch):
    """An earlier export; the next copies what `export_dir` has, in no time."""

    def copy_all(classifier, names, folder, images):
        for model_format in FORMATS:
            if model_format.name in names:
                source = export_dir / model_format.file_name
                copy = shutil.copytree if source.is_dir() else shutil.copy
                copy(source, folder / source.name)
        return {}

    monkeypatch.setattr(exporter, "_write", copy_all)
    earlier = tmp_path / "export"
    earlier.mkdir()
    (earlier / "model.tflite").write_text("the earlier one")
    report = json.dumps({"files": list_files(earlier)})
    (earlier / "export_report.json").write_text(report)
    return earlier


def check_kept(earlier):
    """Checks that the earlier export is as it was, and nothing beside it."""
    assert [path.name for path in earlier.parent.iterdir()] == ["export"]
    assert sorted(path.name for path in earlier.iterdir()) == [
        "export_report.json",
        "model.tflite",
    ]
    assert (earlier / "model.tflite").read_text() == "the earlier one"


def test_failed_verification_keeps_the_earlier_export(
    copied_export, classifier, monkeypatch
):
    def compute_wrong(classifier, images):
        return np.full((len(images), 10), 0.1, "float32")

    monkeypatch.setattr(exporter, "compute_expected", compute_wrong)
    monkeypatch.setattr(exporter, "run_to_end", run_in_this_process)
    with pytest.raises(
        exporter.VerificationError,
        match=r"^saved_model: it must be within 0\.0001.*; tflite: it must be ",
    ):
        exporter.export_classifier(
            classifier, copied_export, formats=["saved_model", "tflite"]
        )
    check_kept(copied_export)


def test_rounded_weights_that_agree_too_seldom_are_left_out(
    copied_export, classifier, monkeypatch
):
    find_failures = verify_export.find_failures

    def find_more(rows, min_agreement):
        return find_failures(rows, min_agreement) | {
            name: "it must agree" for name in rows if name == "tflite_int8"
        }

    monkeypatch.setattr(verify_export, "find_failures", find_more)
    monkeypatch.setattr(exporter, "run_to_end", run_in_this_process)
    names = ["tflite", "tflite_int8"]
    images = [np.zeros((16, 16, 1), np.uint8)]
    with pytest.raises(exporter.VerificationError, match=r"^tflite_int8: it"):
        exporter.export_classifier(
            classifier,
            copied_export,
            formats=names,
            representative_images=images,
            min_agreement=0.0,
        )
    monkeypatch.setattr(
        exporter,
        "find_unavailable",
        lambda known, has_images: {n: "x" for n in known if n not in names},
    )
    exporter.export_classifier(classifier, copied_export, min_agreement=0.0)
    assert sorted(p.name for p in copied_export.iterdir()) == [
        "export_report.html",
        "export_report.json",
        "model.tflite",
    ]
    report = exporter.read_report(copied_export)
    assert list(report["formats"]) == ["tflite"]
    assert report["left_out"]["tflite_int8"] == "it must agree"


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("onnx", {"max_difference": 2e-4, "top1_agreement": 1.0}, "0.0002"),
        ("tflite", {"max_difference": np.nan, "top1_agreement": 1.0}, "nan"),
        (
            "tflite_int8",
            {"max_difference": 0.2, "top1_agreement": 0.94},
            "--min_agreement=0.95.*0.94",
        ),
    ],
    ids=["different", "NaN", "seldom the same class"],
)
def test_bad_format_is_named(name, row, message):
    good = {"max_difference": 1e-6, "top1_agreement": 0.96}
    rows = {"saved_model": good, name: row}
    failures = verify_export.find_failures(rows, min_agreement=0.95)
    assert list(failures) == [name]
    assert re.match(f"it must .*{message}$", failures[name])


def test_files_and_labels_are_compared_as_they_are():
    probabilities = np.array([[0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    expected = np.array([[0.1, 0.9], [0.4, 0.6], [0.3, 0.7]])
    labels = np.array([1, 1, 0])
    row = verify_export.compare(probabilities, expected, labels)
    assert row["max_difference"] == pytest.approx(0.2)
    assert row["top1_agreement"] == pytest.approx(2 / 3)
    assert row["accuracy"] == pytest.approx(1 / 3)
    assert row["disagreements"] == {1: 0}


@pytest.fixture
def dying_converter(monkeypatch):
    """Programs that write empty files and die of a signal at the second."""

    def run(module_name, *arguments):
        values = dict(a.removeprefix("--").split("=") for a in arguments)
        folder = pathlib.Path(values["export_dir"])
        for model_format in FORMATS:
            if model_format.name not in values["formats"].split(","):
                continue
            if model_format.name == "tflite_float16":
                (folder / "unfinished_model_float16.tflite").touch()
                kill = "import os; os.kill(os.getpid(), 11)"
                return subprocess.run([sys.executable, "-c", kill])
            (folder / model_format.file_name).touch()
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(exporter, "run_alone", run)


def test_converter_that_dies_is_named_and_the_next_go_on(
    linear_model_path, dying_converter, tmp_path
):
    folder = tmp_path / "new"
    folder.mkdir()
    classifier = load_classifier(linear_model_path)
    names = ["tflite", "tflite_float16", "tflite_dynamic"]
    left_out = exporter._write(classifier, names, folder, None)
    assert left_out == {"tflite_float16": "its process died of SIGSEGV"}
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["model.tflite", "model_dynamic.tflite"]


def test_format_that_was_asked_for_and_cannot_be_made_is_refused(
    linear_model_path, dying_converter, tmp_path
):
    with pytest.raises(
        UserError, match=r"^tflite_float16 cannot be made: its process died"
    ):
        exporter.export_classifier(
            load_classifier(linear_model_path),
            tmp_path / "export",
            formats=["tflite_float16"],
        )
    assert not (tmp_path / "export").exists()


def test_error_of_a_process_is_its_last_line():
    result = subprocess.CompletedProcess([], 1, "", "Traceback\nError: why\n")
    assert exporter.describe_end(result) == "why"


def test_formats_that_cannot_be_made_here_are_explained(monkeypatch):
    names = ["tflite", "tflite_int8", "onnx"]
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "tf2onnx" else find_spec(name),
    )
    reasons = exporter.find_unavailable(names, has_images=False)
    assert list(reasons) == ["tflite_int8", "onnx"]
    assert "--representative_images" in reasons["tflite_int8"]
    assert reasons["onnx"].startswith("it needs tf2onnx; `pip install")


def test_verified_export_replaces_the_earlier_one(
    copied_export, classifier, monkeypatch
):
    monkeypatch.setattr(exporter, "_verify", lambda *_: {**EMPTY_REPORT})
    exporter.export_classifier(classifier, copied_export)
    assert [p.name for p in copied_export.parent.iterdir()] == ["export"]
    assert zipfile.is_zipfile(copied_export / "model.tflite")


def test_interrupted_swap_keeps_the_earlier_export(
    copied_export, classifier, monkeypatch
):
    rename = pathlib.Path.rename

    def fail_to_move_the_new_one(path, target):
        if ".new-" in path.name:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(exporter, "_verify", lambda *_: {**EMPTY_REPORT})
    monkeypatch.setattr(pathlib.Path, "rename", fail_to_move_the_new_one)
    with pytest.raises(KeyboardInterrupt):
        exporter.export_classifier(classifier, copied_export)
    check_kept(copied_export)


@pytest.mark.slow
def test_folder_that_cannot_be_made_is_named(classifier, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be made: .*/file/"):
        exporter.export_classifier(classifier, tmp_path / "file" / "export")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model is missing: the .keras file to export."),
        (["best.keras"], "Flags begin with --. Received: best.keras"),
        (
            ["--model=best.keras", "--formats=tflite,tfjs"],
            "--formats must be among saved_model, tflite, tflite_float16, ",
        ),
        (["--model=absent.keras"], "--model must be a .keras file. Received:"),
    ],
    ids=["no_model", "no_flag", "no_such_format", "no_such_file"],
)
def test_command_says_what_is_wrong_in_one_line(
    program, arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        program.start(*arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {message}")


@pytest.mark.parametrize(
    "name",
    ["tflite_int16x8", "tflite_int16", "int16x8", "TFLite-INT16-x8", "16x8"],
)
def test_activations_of_16_bits_are_refused_with_the_reason(name):
    with pytest.raises(
        UserError, match=r"silently wrong, because .*tflite_int8"
    ):
        exporter.find_unavailable(["tflite", name], has_images=True)


@pytest.fixture
def interrupted_child(monkeypatch, tmp_path):
    """Programs that never end; Ctrl-C comes to this one when one began.

    Yields the file with its process id and its file of a temporary name.
    """
    began = tmp_path / "began" / "child"
    began.parent.mkdir()
    script = f"""
import os, pathlib, signal, tempfile, time
# As if it were within a library that does not listen.
signal.signal(signal.SIGINT, signal.SIG_IGN)
path = pathlib.Path(tempfile.mkdtemp())
began = pathlib.Path({str(began)!r})
began.with_suffix(".new").write_text(f"{{os.getpid()}} {{path}}")
began.with_suffix(".new").rename(began)
time.sleep(60)
"""
    run_to_end = exporter.run_to_end

    def run_script(command, environment):
        return run_to_end([sys.executable, "-c", script], environment)

    def interrupt():
        while not began.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(exporter, "run_to_end", run_script)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "began"))
    # Shells have what they start in the background ignore it.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    yield began
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("step", ["write", "verify"])
def test_ctrl_c_ends_the_child_and_keeps_the_earlier_export(
    step, request, classifier, monkeypatch
):
    write = exporter._write
    earlier = request.getfixturevalue("copied_export")
    if step == "write":
        monkeypatch.setattr(exporter, "_write", write)
    began = request.getfixturevalue("interrupted_child")
    with pytest.raises(KeyboardInterrupt):
        exporter.export_classifier(classifier, earlier, formats=["tflite"])
    process_id, temporary = began.read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(process_id), 0)
    assert not pathlib.Path(temporary).exists()
    began.unlink()
    assert not list(began.parent.iterdir())
    began.parent.rmdir()
    check_kept(earlier)


def test_softmax_is_appended_to_logits():
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    images = np.random.default_rng(0).uniform(0, 255, (5, 4, 4, 1))
    np.testing.assert_allclose(
        end_in_softmax(model)(images),
        keras.ops.softmax(model(images)),
        atol=1e-6,
    )


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_softmax_is_not_applied_twice(nested):
    images = keras.Input((4, 4, 1))
    x = keras.layers.Flatten()(images)
    model = keras.Model(images, keras.layers.Dense(3, "softmax")(x))
    if nested:
        images = keras.Input((4, 4, 1))
        model = keras.Model(images, model(images / 255))
    assert end_in_softmax(model) is model


def test_half_precision_model_is_rebuilt_in_float32_with_its_weights():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((6, 6, 3))
        x = lambda_keras.LambdaConv(8, scope_size=3)(inputs)
        x = keras.layers.GlobalAveragePooling2D()(x)
        inner = keras.Model(inputs, keras.layers.Dense(5)(x))
        outer_inputs = keras.Input((6, 6, 3))
        x = keras.layers.Rescaling(1 / 255)(outer_inputs)
        mixed = keras.Model(outer_inputs, inner(x))
    finally:
        keras.config.set_dtype_policy("float32")
    converted = convert_to_float32(mixed)

    assert mixed.outputs[0].dtype == "bfloat16"
    assert converted.outputs[0].dtype == "float32"
    layers = converted._flatten_layers()
    assert {layer.compute_dtype for layer in layers} == {"float32"}
    for old, new in zip(mixed.weights, converted.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    images = np.random.default_rng(0).uniform(0, 255, (2, 6, 6, 3))
    np.testing.assert_allclose(
        converted(images), keras.ops.cast(mixed(images), "float32"), atol=0.05
    )


@pytest.mark.slow
def test_float32_model_is_kept(keras_model):
    assert convert_to_float32(keras_model) is keras_model


def test_missing_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Received: .*absent\.keras"):
        load_classifier(tmp_path / "absent.keras")


def test_damaged_model_is_named(tmp_path, model_dir):
    damaged = tmp_path / "best.keras"
    damaged.write_bytes((model_dir / "best.keras").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut off: .*best\.keras"):
        load_classifier(damaged)


@pytest.fixture
def change_model(linear_model_path):
    """Writes other contents for a member of the file, or none."""
    with zipfile.ZipFile(linear_model_path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def change(name, contents):
        with zipfile.ZipFile(linear_model_path, "w") as archive:
            for member, old in members.items():
                if member != name:
                    archive.writestr(member, old)
                elif contents is not None:
                    archive.writestr(member, contents(old))

    return change


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("config.json", None),
        ("config.json", lambda old: b"null"),
        ("config.json", lambda old: b"{}"),
        ("config.json", lambda old: old[:100]),
        ("config.json", lambda old: old.replace(b"Dense", b"Dance")),
        # It loads, but TensorFlow has no such names.
        ("config.json", lambda old: old.replace(b'"dense', b'"&ense')),
        ("config.json", lambda old: old.replace(b'"dtype"', b'"type"')),
        ("model.weights.h5", None),
        ("model.weights.h5", lambda old: b"no HDF5"),
        ("model.weights.h5", lambda old: old[:900]),
        ("model.weights.h5", lambda old: old.replace(b"HEAP", b"HEAD")),
    ],
)
def test_archive_of_damaged_contents_is_one_line(
    change_model, linear_model_path, name, contents
):
    change_model(name, contents)
    with pytest.raises(UserError, match=r"Received: .*last\.keras") as error:
        load_classifier(linear_model_path)
    assert "\n" not in str(error.value)


def test_flipped_bits_are_one_line_wherever_they_are(linear_model_path):
    contents = linear_model_path.read_bytes()
    messages = []
    for position in range(0, len(contents), 97):
        damaged = bytearray(contents)
        damaged[position] ^= 1 << position % 8
        linear_model_path.write_bytes(damaged)
        try:
            load_classifier(linear_model_path)
        except UserError as error:
            messages.append(str(error))
    # The others are in what an archive holds beside its files.
    assert len(messages) > 0.9 * len(contents) / 97
    assert not [message for message in messages if "\n" in message]


@pytest.mark.parametrize(
    "error",
    [MemoryError("array"), tf.errors.ResourceExhaustedError(None, None, "OOM")],
    ids=["numpy", "tensorflow"],
)
def test_model_that_memory_does_not_hold_is_one_line(
    linear_model_path, monkeypatch, error
):
    """As of a number of units with a flipped bit."""

    def load(*_, **__):
        raise error

    monkeypatch.setattr(keras.saving, "load_model", load)
    with pytest.raises(UserError, match=f"load: {type(error).__name__}: "):
        load_classifier(linear_model_path)


def test_missing_class_is_named(change_model, linear_model_path):
    change_model(
        "config.json",
        lambda old: old.replace(
            b'"keras.layers", "class_name": "Flatten"',
            b'"mine", "class_name": "Mine"',
        ),
    )
    with pytest.raises(UserError, match="Could not locate class 'Mine'"):
        load_classifier(linear_model_path)


def test_model_that_returns_nan_is_refused(linear_model_path):
    model = keras.saving.load_model(linear_model_path)
    model.layers[-1].bias.assign([0, np.nan])
    model.save(linear_model_path)
    with pytest.raises(UserError, match=r"finite numbers\. Received: nan"):
        load_classifier(linear_model_path)


def call_system(config, command):
    layer = config["config"]["layers"][1]
    layer |= {
        "module": "os",
        "class_name": "system",
        "registered_name": None,
        "config": {"command": command},
    }


def initialize_by_process(config, command):
    config["config"]["layers"][2]["config"]["kernel_initializer"] = {
        "module": "subprocess",
        "class_name": "Popen",
        "registered_name": None,
        "config": {"args": command, "shell": True},
    }


def activate_by_system(config, command):
    config["config"]["layers"][2]["config"]["activation"] = {
        "module": "os",
        "class_name": "function",
        "registered_name": "system",
        "config": "system",
    }


def add_lambda(config, command):
    code = f"(lambda x: (__import__('os').system({command!r}), x)[1])"
    layer = keras.layers.Lambda(eval(code), output_shape=(4, 4, 1))
    config["config"]["layers"][1] |= keras.saving.serialize_keras_object(layer)


@pytest.mark.parametrize(
    "change",
    [call_system, initialize_by_process, activate_by_system, add_lambda],
)
def test_code_in_a_model_is_not_run(
    change, change_model, linear_model_path, tmp_path
):
    trace = tmp_path / "trace"

    def change_config(contents):
        config = json.loads(contents)
        change(config, f"touch {trace}")
        return json.dumps(config)

    change_model("config.json", change_config)
    with pytest.raises(UserError, match=r"Received: .*last\.keras$") as error:
        load_classifier(linear_model_path)
    assert "\n" not in str(error.value)
    assert not trace.exists()


def test_model_of_two_inputs_is_refused(tmp_path):
    inputs = [keras.Input((4,)), keras.Input((4,))]
    outputs = keras.layers.Add()(inputs)
    keras.Model(inputs, outputs).save(tmp_path / "two.keras")
    with pytest.raises(UserError, match="must map square images"):
        load_classifier(tmp_path / "two.keras")


@pytest.fixture
def linear_model_path(tmp_path):
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Flatten()(inputs)
    keras.Model(inputs, keras.layers.Dense(2)(x)).save(tmp_path / "last.keras")
    return tmp_path / "last.keras"


def test_classes_without_metadata_are_numbered(linear_model_path, capsys):
    classifier = load_classifier(linear_model_path)
    assert classifier.class_names == ["0", "1"]
    assert classifier.crop_fraction == 1
    assert "the classes are called 0 to 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "is damaged"),
        ('{"class_names": ["a", "b"]}', "crop_fraction in .*: None"),
        (
            '{"class_names": ["a", "b", "c"], "crop_fraction": 1}',
            "3 names for 2 classes",
        ),
        ('{"class_names": ["a", "b"], "crop_fraction": 0}', "above 0"),
        ("null", "is damaged"),
        ('{"class_names": ["a"], "crop_fraction": 1}', "1 names for 2"),
        ('{"class_names": [1, 2], "crop_fraction": 1}', "list of strings"),
        ('{"class_names": "ab", "crop_fraction": 1}', "list of strings"),
        ('{"class_names": ["a", "b"], "crop_fraction": NaN}', ": nan"),
        ('{"class_names": ["a", "b"], "crop_fraction": true}', ": True"),
    ],
    ids=[
        "not JSON",
        "no crop",
        "too many names",
        "empty crop",
        "no object",
        "too few names",
        "names of another type",
        "names in no list",
        "crop is no number",
        "crop of another type",
    ],
)
def test_unfit_metadata_is_named(linear_model_path, metadata, message):
    linear_model_path.with_name("metadata.json").write_text(metadata)
    with pytest.raises(UserError, match=message):
        load_classifier(linear_model_path)
