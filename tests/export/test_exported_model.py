import hashlib
import json
import pathlib
import shutil
import zipfile

import onnx
import pytest

from export.command_line import InputError
from export.exported_model import open_model
from tests.conftest import CLASS_NAMES

METADATA = {
    "class_names": CLASS_NAMES,
    "image_size": 16,
    "channels": 1,
    "crop_fraction": 0.875,
}


@pytest.fixture
def copy(export_dir, tmp_path):
    """Copies a model, without the report beside it, to be damaged."""

    def copy(name):
        path = tmp_path / name
        if path.suffix:
            return pathlib.Path(shutil.copy(export_dir / name, path))
        return shutil.copytree(export_dir / name, path)

    return copy


def refuse(path):
    """Returns what is said of a damaged model."""
    with pytest.raises(InputError) as error:
        open_model(path)
    line = str(error.value)
    assert line.startswith("--model must")
    assert line.endswith(str(path))
    assert "\n" not in line
    assert len(line) < 500 + len(str(path))
    return line


def write_tflite(path, content, files):
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


def read_tflite(path):
    """Returns the model alone, and the files behind it."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        size = archive.getinfo("metadata.json").header_offset
    return path.read_bytes()[:size], files


def flip(content, position):
    damaged = bytearray(content)
    damaged[position] ^= 1
    return bytes(damaged)


@pytest.mark.parametrize("name", ["absent.tflite", "absent", "scan.png", "."])
def test_path_of_no_model_is_named(tmp_path, name):
    (tmp_path / "scan.png").touch()
    assert "must be a SavedModel folder" in refuse(tmp_path / name)


@pytest.mark.parametrize("name", ["foreign.tflite", "foreign"])
def test_model_without_metadata_is_refused(tmp_path, name):
    path = tmp_path / name
    if path.suffix:
        path.write_bytes(b"TFL3")
    else:
        path.mkdir()
        (path / "saved_model.pb").touch()
    line = refuse(path)
    assert "must be written by export.export_model" in line
    assert "metadata cannot be read: " in line


@pytest.mark.parametrize("text", ["", "{", b"\xff\xfe"])
def test_metadata_that_is_no_json_is_refused(tmp_path, text):
    path = tmp_path / "model.tflite"
    write_tflite(path, b"", {"metadata.json": text})
    assert "metadata cannot be read: " in refuse(path)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"class_names": None}, "class_names is no list of names"),
        ({"class_names": "abc"}, "class_names is no list of names"),
        ({"class_names": []}, "class_names is no list of names"),
        ({"class_names": ["a", 1]}, "class_names is no list of names"),
        ({"image_size": 0}, "image_size is no number of pixels"),
        ({"image_size": True}, "image_size is no number of pixels"),
        ({"image_size": "16"}, "image_size is no number of pixels"),
        ({"channels": 2}, "channels is neither 1 nor 3"),
        ({"channels": [1]}, "channels is neither 1 nor 3"),
        ({"crop_fraction": 0}, "crop_fraction is no fraction"),
        ({"crop_fraction": 1.5}, "crop_fraction is no fraction"),
        ({"crop_fraction": float("nan")}, "crop_fraction is no fraction"),
        ({"crop_fraction": "1"}, "crop_fraction is no fraction"),
    ],
)
def test_metadata_of_wrong_values_are_refused(tmp_path, wrong, reason):
    path = tmp_path / "model.tflite"
    write_tflite(path, b"", {"metadata.json": json.dumps(METADATA | wrong)})
    assert f"in its metadata {reason}." in refuse(path)


@pytest.mark.parametrize("key", list(METADATA))
def test_metadata_without_a_key_are_refused(tmp_path, key):
    path = tmp_path / "model.tflite"
    metadata = {k: v for k, v in METADATA.items() if k != key}
    write_tflite(path, b"", {"metadata.json": json.dumps(metadata)})
    assert f"in its metadata {key} is n" in refuse(path)


def test_metadata_that_are_a_list_are_refused(tmp_path):
    path = tmp_path / "model.tflite"
    write_tflite(path, b"", {"metadata.json": "[]"})
    assert "in its metadata there is no object" in refuse(path)


def test_too_few_class_names_are_refused(copy):
    path = copy("model.tflite")
    content, files = read_tflite(path)
    metadata = METADATA | {"class_names": CLASS_NAMES[:3]}
    write_tflite(path, content, files | {"metadata.json": json.dumps(metadata)})
    assert "3 names for 10 classes" in refuse(path)


def test_other_image_size_than_the_network_s_is_refused(copy):
    path = copy("model.onnx")
    model = onnx.load(path)
    description = json.dumps(METADATA | {"image_size": 17})
    onnx.helper.set_model_props(model, {"metadata.json": description})
    onnx.save(model, path)
    assert "cannot be run: InvalidArgument: " in refuse(path)


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
@pytest.mark.parametrize("name", ["model.tflite", "model.onnx"])
def test_cut_off_file_is_refused(copy, name, share):
    path = copy(name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "metadata cannot be read: " in refuse(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_tflite_of_another_bit_is_refused(copy, share):
    path = copy("model.tflite")
    content, files = read_tflite(path)
    damaged = flip(content, int(share * len(content)))
    write_tflite(path, damaged, files)
    assert "cannot be run: ValueError: the checksum" in refuse(path)


def test_damaged_tflite_without_a_checksum_is_refused(copy):
    """As earlier versions wrote them."""
    path = copy("model.tflite")
    content, files = read_tflite(path)
    del files["model.sha256"]
    write_tflite(path, content, files)
    open_model(path)
    for damaged in (b"junk" * 100, flip(content, 0), content[:5000]):
        write_tflite(path, damaged, files)
        assert "cannot be run: ValueError: " in refuse(path)


def test_damaged_onnx_is_refused(copy, capfd):
    path = copy("model.onnx")
    content = path.read_bytes()
    # No protocol buffer, and one of operators whose name is no text.
    for damaged in (
        flip(content, 0),
        content.replace(b"MatMul", b"\xffatMul"),
    ):
        assert damaged != content
        path.write_bytes(damaged)
        assert "metadata cannot be read: " in refuse(path)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("saved_model.pb", "cut"),
        ("saved_model.pb", "missing"),
        ("variables/variables.index", "cut"),
        ("variables/variables.data-00000-of-00001", "flipped"),
        ("variables/variables.data-00000-of-00001", "missing"),
    ],
)
def test_damaged_saved_model_is_refused(copy, name, damage):
    path = copy("saved_model")
    file = path / name
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        file.write_bytes(flip(content, 0))
    else:
        file.unlink()
    if (name, damage) == ("saved_model.pb", "missing"):
        assert "must be a SavedModel folder" in refuse(path)
    else:
        assert "cannot be run: " in refuse(path)


@pytest.mark.parametrize("name", ["model.onnx", "saved_model"])
def test_file_that_is_not_as_the_report_says_is_refused(copy, name):
    path = copy(name)
    file = path / "assets" / "metadata.json" if path.is_dir() else path
    written = file.relative_to(path.parent).as_posix()
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    report = {"files": {written: checksum, "absent.tflite": checksum}}
    path.with_name("export_report.json").write_text(json.dumps(report))
    # Loading a SavedModel takes seconds.
    if name == "model.onnx":
        assert open_model(path).metadata["class_names"] == CLASS_NAMES
    # It would be read all the same.
    file.write_bytes(file.read_bytes() + b"\n")
    assert f"{written} is damaged, changed or missing" in refuse(path)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"files": 1}'])
def test_report_that_lists_no_files_is_nothing_to_compare_with(tmp_path, text):
    (tmp_path / "export_report.json").write_text(text)
    path = tmp_path / "model.tflite"
    path.touch()
    assert "metadata cannot be read: " in refuse(path)
