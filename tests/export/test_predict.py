"""What the program reads, prints and returns, with a network of two lines."""

import csv
import io
import json
import os
import pathlib
import sys
import types

import numpy as np
import pytest
from PIL import Image

from export import exported_model
from export import preprocessing
from export.formats import Format
from tests.support.programs import Program

PROGRAM = Program("export.predict")
CLASS_NAMES = ["dark", "bright", "never"]
METADATA = {
    "class_names": CLASS_NAMES,
    "image_size": 8,
    "channels": 1,
    "crop_fraction": 1.0,
}
# Brightness of which the network returns NaN.
CURSED = 13


def classify(images):
    brightness = images.mean(axis=(1, 2, 3))
    bright = np.where(brightness == CURSED, np.nan, brightness / 255)
    return np.stack([1 - bright, bright, 0 * bright], 1).astype("float32")


@pytest.fixture
def batches():
    """How many files the network was given at once, each time."""
    return []


@pytest.fixture
def start(tmp_path, monkeypatch, capsys, batches):
    """Runs the program; returns its exit code, its output and its errors."""

    def classify_files(files):
        batches.append(len(files))
        return preprocessing.classify_files(classify, METADATA, files)

    fake = Format(
        name="fake",
        file_name="model.fake",
        write=None,
        recognizes=lambda path: path.suffix == ".fake",
        read_metadata=lambda path: METADATA,
        load=lambda path: {"image_bytes": classify_files},
    )
    monkeypatch.setattr(exported_model, "FORMATS", [fake])
    monkeypatch.chdir(tmp_path)

    def start(*arguments, model="model.fake"):
        flags = [f"--model={model}"] if model else []
        with pytest.raises(SystemExit) as end:
            PROGRAM.start(*arguments, *flags)
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return start


def draw(path, brightness):
    path = pathlib.Path(path)
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (9, 7), brightness).save(path)


def test_table_is_printed(start):
    draw("a.png", 0)
    draw("b.png", 204)
    assert start("b.png", "--top=2", "a.png") == (
        0,
        "b.png\n   80.00%  bright\n   20.00%  dark\n"
        "a.png\n  100.00%  dark\n    0.00%  bright\n",
        "",
    )


def test_json_is_an_object_for_each_file(start):
    draw("a/a.png", 204)
    draw("a/b.JPG.png", 0)
    pathlib.Path("a/c.png").write_text("no image")
    code, output, errors = start("a", "--format=json", "--top", "1")
    assert [json.loads(line) for line in output.splitlines()] == [
        {
            "path": "a/a.png",
            "classes": [{"name": "bright", "index": 1, "probability": 0.8}],
        },
        {
            "path": "a/b.JPG.png",
            "classes": [{"name": "dark", "index": 0, "probability": 1.0}],
        },
        {
            "path": "a/c.png",
            "error": "is no PNG, JPEG, BMP, GIF or WebP image",
        },
    ]
    assert code == 1
    assert errors == (
        "Error: a/c.png is no PNG, JPEG, BMP, GIF or WebP image\n"
        "Error: 1 of 3 images could not be classified.\n"
    )


def test_csv_has_a_header_and_all_classes_at_most(start):
    draw("a.png", 204)
    code, output, _ = start("a.png", "b.png", "--format=csv", "--top=9")
    rows = list(csv.reader(io.StringIO(output)))
    assert rows[0] == ["path", "rank", "class", "index", "probability", "error"]
    assert [row[:4] for row in rows[1:4]] == [
        ["a.png", "1", "bright", "1"],
        ["a.png", "2", "dark", "0"],
        ["a.png", "3", "never", "2"],
    ]
    assert rows[4:] == [
        ["b.png", "", "", "", "", "cannot be read: No such file or directory"]
    ]
    assert code == 1


def test_bad_files_are_named_and_the_others_go_on(start):
    draw("good.png", 255)
    draw("cursed.png", CURSED)
    draw("whole.png", 1)
    content = pathlib.Path("whole.png").read_bytes()
    pathlib.Path("cut.png").write_bytes(content[:-30])
    pathlib.Path("empty.gif").touch()
    pathlib.Path("folder").mkdir()
    bad = [
        "absent.png",
        "cut.png",
        "empty.gif",
        "folder",
        "*.tif",
        "cursed.png",
    ]
    code, output, errors = start(*bad[:3], "good.png", *bad[3:], "--top=1")
    assert output == "good.png\n  100.00%  bright\n"
    assert errors.splitlines() == [
        "Error: absent.png cannot be read: No such file or directory",
        "Error: cut.png is damaged or cut off",
        "Error: empty.gif is no PNG, JPEG, BMP, GIF or WebP image",
        "Error: folder holds no images",
        "Error: *.tif matches no images",
        "Error: cursed.png makes the model return what is no probability",
        "Error: 6 of 7 images could not be classified.",
    ]
    assert code == 1


def test_files_are_classified_and_printed_by_batches(
    start, batches, monkeypatch
):
    names = [f"{number}.png" for number in range(5)]
    for number, name in enumerate(names):
        draw(name, 50 * number)

    def list_files():
        yield from (f"{name}\n".encode() for name in names[:4])
        # Before the last one is asked for, the first ones are printed.
        assert sys.stdout.getvalue().count("bright") == 4
        yield b"absent.png\n"
        yield f"{names[4]}\n".encode()

    monkeypatch.setattr(
        sys, "stdin", types.SimpleNamespace(buffer=list_files())
    )
    code, output, errors = start("-", "--batch_size=2")
    assert code == 1
    assert output.split("\n")[::4] == [*names, ""]
    assert "absent.png" in errors
    # First the one that shows whether the model runs.
    assert batches == [1, 2, 2, 1]


def test_large_files_make_small_batches(start, batches, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        draw(name, 0)
    size = os.path.getsize("a.png")
    monkeypatch.setattr(PROGRAM.module, "MOST_BYTES", size + 1)
    assert start("a.png", "b.png", "c.png")[0] == 0
    assert batches == [1, 2, 1]


def test_nothing_raw_reaches_the_terminal(start, monkeypatch):
    draw("a\x1b[2J\n.png", 0)
    monkeypatch.setitem(METADATA, "class_names", ["\u202edark", "b", "c"])
    for table in ("--format=table", "--format=json", "--format=csv"):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        code, output, errors = start("a\x1b[2J\n.png", "b\x1b.png", table)
        assert code == 1
        assert not set("\x1b\u202e") & set(output + errors)
        assert r"Error: b\x1b.png cannot be read" in errors
        if table != "--format=json":
            assert r"a\x1b[2J\n.png" in output
            assert r"\u202edark" in output


def test_csv_in_a_file_has_names_as_they_are(start, monkeypatch):
    name = b"\xff\xe9,\x1b.png"
    draw("a.png", 0)
    os.rename(b"a.png", name)
    stdout = io.TextIOWrapper(io.BytesIO(), "latin-1")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setitem(METADATA, "class_names", ["猫", "b", "c"])
    assert start(os.fsdecode(name), "--format=csv", "--top=1")[0] == 0
    _, line, _ = stdout.buffer.getvalue().split(b"\n")
    assert line.startswith(b'"%s",1,%s,' % (name, "猫".encode()))


@pytest.mark.parametrize("format_name", ["table", "json"])
def test_output_of_few_characters_takes_all_names(
    start, monkeypatch, format_name
):
    draw("é.png", 0)
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert start("é.png", f"--format={format_name}")[0] == 0
    name = {"table": rb"\xe9.png", "json": rb"\u00e9.png"}[format_name]
    assert name in stdout.buffer.getvalue()


@pytest.mark.parametrize("is_there", [True, False])
def test_progress_is_shown_where_the_output_is_not(
    start, monkeypatch, is_there
):
    if not is_there:
        # Python then raises as if there were no such package.
        monkeypatch.setitem(sys.modules, "tqdm", None)
    draw("a.png", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    code, _, errors = start("a.png", "a.png", "b.png")
    assert code == 1
    assert ("3 images [" in errors) == is_there
    assert "Error: b.png cannot be read" in errors


@pytest.mark.parametrize(
    ("arguments", "model", "message"),
    [
        ([], "model.fake", "At least one image file must be given."),
        (["a.png"], None, "--model must be given."),
        (
            ["a.png", "--modle=x"],
            "model.fake",
            "unrecognized arguments: --modle",
        ),
        (["a.png", "--top=0"], "model.fake", "--top: must be a whole number"),
        (["a.png", "--top=x"], "model.fake", "--top: must be a whole number"),
        (["a.png", "--batch_size=-1"], "model.fake", "--batch_size: must be"),
        (["a.png", "--format=xml"], "model.fake", "--format: invalid choice"),
        (["a.png"], "absent.tflite", "--model must be a SavedModel folder"),
    ],
)
def test_wrong_usage_is_one_line(start, batches, arguments, model, message):
    code, output, errors = start(*arguments, model=model)
    assert code == 2
    assert output == ""
    assert errors.startswith(f"Error: {message}")
    assert errors.count("\n") == 1
    assert batches == []


def test_file_whose_name_begins_with_a_dash_follows_two(start):
    draw("-a.png", 0)
    assert start("--model=model.fake", "--", "-a.png", model=None)[0] == 0


def test_help_shows_the_program_and_its_flags(start):
    code, output, _ = start("--help")
    assert code == 0
    assert "Says what is in images" in output
    for name in ("IMAGE", "--model PATH", "--top N", "--batch_size N"):
        assert name in output
