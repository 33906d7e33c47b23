"""Folders of a web page, with stand-ins for LiteRT.js and the models."""

import json
import pathlib
import zipfile

import pytest
from PIL import Image

from export import make_page
from export.command_line import InputError
from tests.support.programs import Program

METADATA = {
    "class_names": ["a", "b"],
    "image_size": 8,
    "channels": 3,
    "crop_fraction": 1.0,
}


def write_model(path):
    path.write_bytes(b"model")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", json.dumps(METADATA))


@pytest.fixture
def export_dir(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("model.tflite", "model_int8.tflite"):
        write_model(folder / name)
    (folder / "model.onnx").write_bytes(b"no TensorFlow Lite file")
    return folder


@pytest.fixture
def web(tmp_path, monkeypatch):
    """The sources of the page, beside packages of npm with short files."""
    folder = tmp_path / "web"
    folder.mkdir()
    for source in make_page.WEB.iterdir():
        if source.is_file():
            (folder / source.name).symlink_to(source)
    for name in make_page.RUNTIME_FILES.values():
        path = folder / "node_modules" / "@litertjs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.setattr(make_page, "WEB", folder)
    return folder


def make(export_dir, output_dir, *arguments):
    return make_page.main(
        [
            f"--export_dir={export_dir}",
            f"--output_dir={output_dir}",
            *arguments,
        ]
    )


def list_files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_page_holds_models_runtime_and_examples(
    export_dir, web, tmp_path, capsys
):
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(10):
        Image.new("L", (8, 8), number).save(scans / f"a scan {number}.PNG")
    page = tmp_path / "made" / "page"
    assert make(export_dir, page, f"--examples={scans}") == 0
    files = list_files(page)
    site = json.loads(files.pop("models.json"))
    assert [model["file"] for model in site["models"]] == [
        "model.tflite",
        "model_int8.tflite",
    ]
    for model, weights in zip(site["models"], ("float32", "int8"), strict=True):
        assert model["weights"] == weights
        contents = (export_dir / model["file"]).read_bytes()
        assert files[model["file"]] == contents
        assert model["bytes"] == len(contents)
    assert len(site["examples"]) == 8
    for number, example in enumerate(site["examples"]):
        assert example["name"] == f"a scan {number}.PNG"
        assert files[example["file"]] == (
            (scans / example["name"]).read_bytes()
        )
    for name, source in make_page.RUNTIME_FILES.items():
        assert files[f"litert/{name}"] == source.encode()
    # All that the page is made of, with the tests' own files left out.
    sources = {path.name for path in web.iterdir() if path.is_file()}
    sources -= {"package.json", "package-lock.json", "litert_license.txt"}
    assert sources <= set(files)
    assert site["files"].keys() == files.keys()
    command = f"--bind 127.0.0.1 --directory {page} 8000"
    assert command in capsys.readouterr().out


def test_earlier_page_is_replaced_as_a_whole(export_dir, web, tmp_path):
    page = tmp_path / "page"
    make(export_dir, page)
    (export_dir / "model_int8.tflite").unlink()
    make(export_dir, page)
    assert not (page / "model_int8.tflite").exists()
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert len(json.loads((page / "models.json").read_text())["models"]) == 1


def add_file(page):
    (page / "mine.txt").write_text("mine")


def change_file(page):
    (page / "page.css").write_text("body {}")


def add_folder(page):
    (page / "mine").mkdir()


def lose_list(page):
    (page / "models.json").unlink()


@pytest.mark.parametrize(
    "touch", [add_file, change_file, add_folder, lose_list]
)
def test_what_is_foreign_is_never_lost(export_dir, web, tmp_path, touch):
    page = tmp_path / "page"
    make(export_dir, page)
    touch(page)
    files = list_files(page)
    with pytest.raises(InputError, match="must be new, empty or a page"):
        make(export_dir, page)
    assert list_files(page) == files


def test_empty_folder_is_taken_and_a_file_is_not(export_dir, web, tmp_path):
    page = tmp_path / "page"
    page.mkdir()
    make(export_dir, page)
    assert (page / "index.html").is_file()
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match="--output_dir must be a folder"):
        make(export_dir, file)
    assert file.read_text() == "mine"


def test_failure_leaves_the_earlier_page(
    export_dir, web, tmp_path, monkeypatch
):
    page = tmp_path / "page"
    make(export_dir, page)
    files = list_files(page)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(make_page.shutil, "copyfile", fail)
    with pytest.raises(InputError, match="cannot be written: No space left"):
        make(export_dir, page)
    assert list_files(page) == files
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_what_is_missing_or_damaged_is_one_line(
    export_dir, web, tmp_path, capsys
):
    def start(*arguments):
        with pytest.raises(SystemExit) as end:
            Program("export.make_page").start(*arguments)
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    page = tmp_path / "page"
    flags = [f"--export_dir={export_dir}", f"--output_dir={page}"]
    assert start() == (
        "Error: the following arguments are required: --export_dir, "
        "--output_dir. See --help."
    )
    line = start(f"--export_dir={tmp_path / 'none'}", f"--output_dir={page}")
    assert "must be a folder that export.export_model wrote" in line
    line = start(*flags, f"--examples={tmp_path / 'none.png'}")
    assert "none.png cannot be read: No such file or directory" in line
    runtime = web / "node_modules" / "@litertjs" / "core" / "dist" / "index.js"
    runtime.unlink()
    assert "npm ci --prefix" in start(*flags)
    (export_dir / "model.tflite").write_bytes(b"damaged")
    assert "the metadata of a file cannot be read" in start(*flags)
    assert not page.exists()


def test_sources_are_what_is_packaged():
    """Files that a page needs, and that a wheel would lack."""
    sources = {path.name for path in make_page.WEB.iterdir() if path.is_file()}
    assert set(make_page.PAGE_FILES) <= sources
    imports = {
        pathlib.PurePath(name).name
        for source in make_page.WEB.glob("*.js")
        for name in source.read_text().split('"')
        if name.startswith("./")
    }
    assert imports <= set(make_page.PAGE_FILES)
