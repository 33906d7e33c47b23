"""An export replaces an earlier one whole, or not at all."""

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

import numpy as np
import pytest

from export import exporter
from export.export_folder import list_files
from export.formats import FORMATS
from export.trained_classifier import load_classifier
from tests.support.programs import Program
from tests.support.programs import run_in_this_process
from trainers.program import UserError

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
    step, request, classifier, export_dir, monkeypatch
):
    write = exporter._write
    # Not an argument, for it replaces what writes.
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
