"""The folder of a run: what is read, written and refused."""

import json
import os

import pytest

from trainers import run_folder
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


@pytest.mark.parametrize("name", ["best.keras", "last.keras"])
def test_model_of_unknown_origin_is_not_overwritten(name, tmp_path):
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
    assert run_folder.read_flags(tmp_path) == content
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


def test_new_folder_has_no_flags(tmp_path):
    assert run_folder.read_flags(tmp_path) == {}
    assert run_folder.read_flags(tmp_path / "new") == {}


def test_damaged_flags_file_is_one_line(tmp_path):
    (tmp_path / "flags.json").write_text('{"depth": 2')
    message = get_error(run_folder.read_flags, tmp_path)
    assert "flags.json is damaged" in message


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
