"""The folder of a run: what is read, written and refused."""

import json
import math
import os
import subprocess
import sys
import textwrap

import pytest

from trainers import run_folder
from trainers.files import make_path
from trainers.program import UserError


def get_error(function, *arguments, **named_arguments):
    """Returns the one line that a function refuses its arguments with."""
    with pytest.raises(UserError) as error:
        function(*arguments, **named_arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folder_is_made_with_those_around_it(tmp_path):
    run_folder.prepare_folder(tmp_path / "runs" / "digits")
    assert list((tmp_path / "runs" / "digits").iterdir()) == []


def test_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    message = get_error(run_folder.prepare_folder, tmp_path / "file" / "run")
    assert "must be a folder that can be written" in message
    assert message.endswith(f"Received: {tmp_path / 'file' / 'run'}")


@pytest.mark.parametrize(
    "name", ["best.keras", "last.keras", "metrics.csv", "results.json"]
)
def test_file_of_unknown_origin_is_not_overwritten(name, tmp_path):
    (tmp_path / name).write_text("precious")
    message = get_error(run_folder.prepare_folder, tmp_path)
    assert f"holds {name} but no flags.json" in message
    (tmp_path / "flags.json").write_text("{}")
    run_folder.prepare_folder(tmp_path)
    assert (tmp_path / name).read_text() == "precious"


def test_what_is_written_is_read(tmp_path):
    content = {"dataset": "digits", "layout": None, "learning_rate": 0.1}
    run_folder.write_json(tmp_path / "flags.json", {"old": 1})
    run_folder.write_json(tmp_path / "flags.json", content)
    assert run_folder.read_json(tmp_path / "flags.json") == content
    assert [path.name for path in tmp_path.iterdir()] == ["flags.json"]


def test_failed_write_leaves_the_last_content(tmp_path, monkeypatch):
    path = tmp_path / "flags.json"
    run_folder.write_json(path, {"epochs": 2})

    def fail(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        run_folder.write_json(path, {"epochs": 3})
    assert json.loads(path.read_text()) == {"epochs": 2}


@pytest.mark.parametrize(
    "text", ['{"depth": 2', "", "null", "[1]", "5", "\xff", "[" * 99999]
)
def test_damaged_file_is_one_line(text, tmp_path):
    path = tmp_path / "flags.json"
    path.write_bytes(text.encode("latin-1"))
    message = get_error(run_folder.read_json, path)
    assert f"{path} is damaged" in message


def test_folder_in_place_of_a_file_is_one_line(tmp_path):
    message = get_error(run_folder.read_json, tmp_path)
    assert "cannot be read: Is a directory" in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_names": ["a", "b"]}, "above 0 and at most 1. Received: None"),
        ({"crop_fraction": 1.0}, "a list of strings. Received: None"),
        ({"class_names": "ab", "crop_fraction": 1}, "a list of strings"),
        ({"class_names": ["a", 5], "crop_fraction": 1}, "a list of strings"),
        ({"class_names": ["a"], "crop_fraction": "1"}, "Received: '1'"),
        ({"class_names": ["a"], "crop_fraction": 0}, "Received: 0"),
        ({"class_names": ["a"], "crop_fraction": math.nan}, "Received: nan"),
    ],
)
def test_unfit_metadata_is_one_line(values, message, tmp_path):
    path = tmp_path / "metadata.json"
    run_folder.write_json(path, values)
    error = get_error(run_folder.read_metadata, path)
    assert message in error
    assert str(path) in error


def test_missing_file_is_one_line(tmp_path):
    message = get_error(run_folder.read_json, tmp_path / "metadata.json")
    assert "metadata.json cannot be read: No such file" in message
    assert "Train first" in message


def test_flags_that_differ_are_named(tmp_path):
    saved = {"depth": 26, "seed": 0, "epochs": 2, "tpu": None, "layout": "CL"}
    new = {"depth": 50, "seed": 1, "epochs": 3, "tpu": "a", "layout": "CL"}
    message = get_error(
        run_folder.check_flags,
        tmp_path,
        saved,
        new,
        may_change=("epochs", "tpu"),
    )
    assert message.endswith(
        "Received: --depth=50 instead of 26, --seed=1 instead of 0"
    )
    run_folder.check_flags(tmp_path, saved, new, may_change=new)


def test_run_cannot_become_shorter(tmp_path):
    message = get_error(
        run_folder.check_flags,
        tmp_path,
        {"epochs": 2},
        {"epochs": 1},
        may_change=("epochs",),
    )
    assert message.endswith("Received: --epochs=1 instead of 2")


def test_run_of_an_older_version_is_refused(tmp_path):
    (tmp_path / "flags.json").write_text("{}")
    (tmp_path / "train_state.npz").write_text("precious")
    message = get_error(run_folder.prepare_folder, tmp_path)
    assert "a version that saved train_state.npz" in message


def start_and_lock(folder):
    """Starts a process that holds the lock of a folder."""
    program = """
        import sys, time
        from trainers import run_folder
        with run_folder.locking(sys.argv[1]):
            print("locked", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), folder],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "locked\n"
    return process


def test_lock_keeps_others_out_until_its_process_is_dead(tmp_path):
    with start_and_lock(tmp_path) as process:
        message = get_error(run_folder.locking(tmp_path).__enter__)
        assert "Another process is training in" in message
        process.kill()
    with run_folder.locking(tmp_path):
        pass
    with run_folder.locking(tmp_path):
        pass


def test_folder_elsewhere_is_made_written_and_listed():
    folder = f"ram://run_folder/{os.getpid()}"
    run_folder.prepare_folder(folder)
    run_folder.write_json(make_path(folder) / "flags.json", {"epochs": 3})
    run_folder.write_json(make_path(folder) / "flags.json", {"epochs": 5})
    path = make_path(folder) / "flags.json"
    assert run_folder.read_json(path) == {"epochs": 5}
    names = [path.name for path in make_path(folder).iterdir()]
    assert names == ["flags.json"]
    message = get_error(run_folder.read_json, make_path(folder) / "other.json")
    assert "cannot be read" in message


def test_unknown_file_system_is_one_line_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = get_error(run_folder.prepare_folder, "nowhere://bucket/run")
    assert "must be a folder that can be written" in message
    assert list(tmp_path.iterdir()) == []
