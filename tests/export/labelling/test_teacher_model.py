"""A model elsewhere is copied, and known by what is in it."""

import pytest

from export.labelling.teacher_model import compute_fingerprint
from export.labelling.teacher_model import fetching_model
from tests.support import memory_files
from trainers.program import UserError

FILES = {"saved_model.pb": b"graph", "variables/variables.index": b"index"}


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "saved_model", FILES)


def write(folder, files):
    for name, contents in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    return folder


def test_folder_is_copied_from_elsewhere(folder, monkeypatch):
    there = {f"memory://bucket/a/{n}": value for n, value in FILES.items()}
    there["memory://bucket/ab"] = b"another"
    monkeypatch.setattr(memory_files, "contents", there)
    for name in ("memory://bucket/a", "memory://bucket/a/"):
        with fetching_model(name) as local:
            assert local.name == "a"
            assert compute_fingerprint(local, ["b"]) == compute_fingerprint(
                folder, ["b"]
            )
        assert not local.exists()


def test_file_is_copied_from_elsewhere(monkeypatch):
    there = {"memory://bucket/a/model.onnx": b"graph"}
    monkeypatch.setattr(memory_files, "contents", there)
    with fetching_model("memory://bucket/a/model.onnx") as local:
        assert local.name == "model.onnx"
        assert local.read_bytes() == b"graph"


def test_missing_model_is_one_line(monkeypatch):
    monkeypatch.setattr(memory_files, "contents", {})
    with (
        pytest.raises(UserError, match="--model cannot be copied") as error,
        fetching_model("memory://bucket/a"),
    ):
        pass
    assert str(error.value).endswith("Received: memory://bucket/a")


def test_fingerprint_is_of_names_contents_and_classes(folder, tmp_path):
    fingerprint = compute_fingerprint(folder, ["a", "b"])
    assert len(fingerprint) == 32
    assert int(fingerprint, 16)
    moved = folder.rename(tmp_path / "moved")
    assert compute_fingerprint(moved, ["a", "b"]) == fingerprint
    others = [
        compute_fingerprint(moved, ["b", "a"]),
        compute_fingerprint(moved, ["ab"]),
        *(
            compute_fingerprint(
                write(tmp_path / f"{number}", files), ["a", "b"]
            )
            for number, files in enumerate(
                [
                    FILES | {"saved_model.pb": b"another"},
                    FILES | {"more": b""},
                    {"other.pb": b"graph", "variables/variables.index": b""},
                ]
            )
        ),
    ]
    assert len({fingerprint, *others}) == 6
