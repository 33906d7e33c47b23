"""What an export replaces, and what killed ones leave."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from export import export_folder
from trainers.program import UserError

# Kills itself at a moment of each folder's export.
KILLED = """
import json
import os
import pathlib
import signal
import sys

from export import export_folder

rename, remove = pathlib.Path.rename, export_folder._remove


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def export(folder, moment):
    def rename_and_die(path, target):
        if moment == f"before {path.name.split('-')[0]}":
            kill()
        rename(path, target)

    def remove_and_die(path):
        if moment == "removing" and ".old-" in path.name:
            (path / "model.tflite").unlink()
        kill()

    pathlib.Path.rename = rename_and_die
    export_folder._remove = remove_and_die
    with export_folder.replacing_export(folder) as new:
        (new / "unfinished_saved_model").mkdir()
        (new / "unfinished_saved_model" / "variables").touch()
        if moment == "writing":
            kill()
        (new / "unfinished_saved_model" / "variables").unlink()
        (new / "unfinished_saved_model").rmdir()
        (new / "model.onnx").write_text("new")
        files = export_folder.list_files(new)
        (new / "export_report.json").write_text(json.dumps({"files": files}))


for moment, folder in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    if not os.fork():
        export(pathlib.Path(folder), moment)
    _, status = os.wait()
    assert os.WTERMSIG(status) == signal.SIGKILL, moment
"""
MOMENTS = [
    "writing",
    "before export",
    "before .export.new",
    "before the old one is removed",
    "removing",
]


def write_export(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_tflite", ".tflite")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    report = {"files": export_folder.list_files(folder)}
    (folder / "export_report.json").write_text(json.dumps(report))


@pytest.fixture
def export_dir(tmp_path):
    folder = tmp_path / "export"
    write_export(folder, model_tflite="old", saved_model__variables__data="old")
    return folder


def read_all(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_export_as_it_was_written_is_replaced_whole(export_dir):
    with export_folder.replacing_export(export_dir) as new:
        write_export(new, model_tflite="new")
    assert sorted(read_all(export_dir)) == [
        "export_report.json",
        "model.tflite",
    ]
    assert (export_dir / "model.tflite").read_text() == "new"
    assert list(export_dir.parent.iterdir()) == [export_dir]


def test_export_of_which_files_were_removed_is_replaced(export_dir):
    shutil.rmtree(export_dir / "saved_model")
    export_folder.check_export_dir(export_dir)


def add(name):
    def change(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")

    return change


def link(folder):
    (folder / "model.tflite").rename(folder.parent / "kept")
    (folder / "model.tflite").symlink_to(folder.parent / "kept")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (add("thesis.tex"), "thesis.tex"),
        (add(".hidden"), ".hidden"),
        (add("model.onnx"), "model.onnx"),
        (add("saved_model/saved_model.pb"), "saved_model/saved_model.pb"),
        (add("saved_model/assets/vocabulary"), "saved_model/assets/"),
        (add("model.tflite"), "model.tflite (changed)"),
        (link, "model.tflite"),
        (lambda folder: (folder / "notes").mkdir(), "notes/"),
        (
            lambda folder: (folder / "export_report.json").unlink(),
            "model.tflite, saved_model/",
        ),
        (
            lambda folder: (folder / "export_report.json").write_text("[]"),
            "export_report.json, model.tflite, saved_model/",
        ),
    ],
    ids=[
        "beside",
        "hidden",
        "name_of_ours",
        "within_ours",
        "folder_within_ours",
        "changed",
        "link",
        "folder",
        "no_report",
        "other_report",
    ],
)
def test_what_no_export_wrote_is_not_replaced(export_dir, change, name):
    change(export_dir)
    before = read_all(export_dir)
    for check in (export_folder.check_export_dir, replace):
        with pytest.raises(UserError, match="or choose another") as error:
            check(export_dir)
        assert f"{export_dir}, which holds {name}" in str(error.value)
        assert "\n" not in str(error.value)
    assert read_all(export_dir) == before
    assert not list(export_dir.parent.glob(".export*"))


def replace(folder):
    """As if the file had come while the export was written."""
    with export_folder.replacing_export(folder) as new:
        write_export(new, model_tflite="new")


def test_many_foreign_files_are_counted(export_dir):
    for number in range(7):
        (export_dir / f"{number}.txt").touch()
    with pytest.raises(
        UserError, match=r"holds 0\.txt, 1\.txt, 2\.txt, 3\.txt and 3 more$"
    ):
        export_folder.check_export_dir(export_dir)


@pytest.fixture
def unlisted_export(tmp_path):
    """What a version wrote whose reports listed sizes only."""
    folder = tmp_path / "export"
    names = ["saved_model.pb", "assets/metadata.json", "fingerprint.pb"]
    names += ["variables/variables.index"]
    names += ["variables/variables.data-00000-of-00001"]
    for name in names:
        add(f"saved_model/{name}")(folder)
    add("model.tflite")(folder)
    rows = {
        "saved_model": {"file": "saved_model", "size": 20},
        "tflite": {"file": "model.tflite", "size": 4},
    }
    report = {"examples": "noise", "formats": rows}
    (folder / "export_report.json").write_text(json.dumps(report))
    return folder


def test_export_of_an_earlier_version_is_replaced(unlisted_export):
    export_folder.check_export_dir(unlisted_export)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("saved_model/mine", "", "holds saved_model/mine$"),
        ("model.tflite", "another", r"holds model\.tflite$"),
        ("saved_model/saved_model.pb", "longer", "holds saved_model/, "),
        ("export_report.json", '{"formats": [1]}', r"holds export_report\.js"),
    ],
    ids=["foreign", "other_size", "other_size_within", "other_report"],
)
def test_doubtful_export_of_an_earlier_version_is_not_replaced(
    unlisted_export, name, content, message
):
    (unlisted_export / name).write_text(content)
    with pytest.raises(UserError, match=message):
        export_folder.check_export_dir(unlisted_export)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folders with what exports left that were killed at each moment."""
    folders = {}
    for moment in MOMENTS:
        folders[moment] = tmp_path_factory.mktemp("killed") / "export"
        write_export(
            folders[moment], model_tflite="old", saved_model__data="old"
        )
    arguments = [str(part) for pair in folders.items() for part in pair]
    subprocess.run([sys.executable, "-c", KILLED, *arguments], check=True)
    return folders


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "left", "content", "printed"),
    [
        ("writing", [".new", "export"], "old", "Removed"),
        ("before export", [".new", "export"], "old", "Removed"),
        ("before .export.new", [".new", ".old"], "old", "Moved"),
        ("before the old one is removed", [".old", "export"], "new", "Removed"),
        ("removing", [".old", "export"], "new", "Removed"),
    ],
)
def test_killed_export_is_tidied_up(
    killed, moment, left, content, printed, capsys
):
    folder = killed[moment]
    names = [path.name for path in folder.parent.iterdir()]
    kinds = [name.split("-")[0].removeprefix(".export") for name in names]
    assert sorted(kinds) == left
    export_folder.prepare_export_dir(folder)
    assert list(folder.parent.iterdir()) == [folder]
    name = "model.tflite" if content == "old" else "model.onnx"
    assert (folder / name).read_text() == content
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 if printed == "Moved" else len(lines) == 1
    assert any(line.startswith(printed) for line in lines)


@pytest.mark.slow
def test_export_of_a_living_process_is_left_alone(export_dir):
    program = """
import pathlib, sys
from export import export_folder
with export_folder.replacing_export(pathlib.Path(sys.argv[1])) as new:
    (new / "model.tflite").write_text("half")
    print(new, flush=True)
    sys.stdin.read()
"""
    before = read_all(export_dir)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(export_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        new = pathlib.Path(process.stdout.readline().strip())
        with pytest.raises(UserError, match="Another process is exporting to"):
            export_folder.prepare_export_dir(export_dir)
        assert (new / "model.tflite").read_text() == "half"
        # That to another folder is not in its way.
        export_folder.prepare_export_dir(export_dir.with_name("export2"))
        process.send_signal(signal.SIGKILL)
    export_folder.prepare_export_dir(export_dir)
    assert not new.exists()
    assert read_all(export_dir) == before


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (".export.new-12", "thesis.tex"),
        (".export.old-12", "thesis.tex"),
        # It is by no report what an export wrote.
        (".export.old-12", "model.tflite"),
        (".export.new-mine", "model.tflite"),
        (".exports.new-12", "model.tflite"),
    ],
)
def test_what_no_killed_export_left_stays(export_dir, name, file, capsys):
    add(f"{name}/{file}")(export_dir.parent)
    export_folder.prepare_export_dir(export_dir)
    assert (export_dir.parent / name / file).read_text() == "mine"
    is_ours_by_name = name.endswith("-12") and name.startswith(".export.")
    assert ("look at it" in capsys.readouterr().out) == is_ours_by_name


def test_locks_end_with_the_export(export_dir):
    for _ in range(2):
        replace(export_dir)
        export_folder.prepare_export_dir(export_dir)


def test_failure_keeps_the_earlier_export(export_dir):
    before = read_all(export_dir)

    def interrupt():
        with export_folder.replacing_export(export_dir) as new:
            add("unfinished_model.tflite")(new)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert list(export_dir.parent.iterdir()) == [export_dir]
    assert read_all(export_dir) == before
