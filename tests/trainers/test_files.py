"""That a file which is replaced is whole at any time, old or new."""

import os

import pytest

from trainers.files import replacing


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def list_names(path):
    return [neighbor.name for neighbor in path.parent.iterdir()]


def write_half(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


def test_new_file_appears_whole(path):
    with replacing(path) as temporary:
        temporary.write_text("half of it, ")
        assert not path.exists()
        with open(temporary, "a") as file:
            file.write("and the rest")
    assert path.read_text() == "half of it, and the rest"
    assert list_names(path) == ["metrics.csv"]


def test_old_file_stays_until_the_new_one_is_whole(path):
    path.write_text("old and long")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old and long"
    assert path.read_text() == "new"
    assert list_names(path) == ["metrics.csv"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_block_that_raises_leaves_the_old_file_alone(path, error):
    path.write_text("old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_text() == "old"
    assert list_names(path) == ["metrics.csv"]


def test_block_that_raises_makes_no_file(path):
    with pytest.raises(OSError, match="full"):
        write_half(path, OSError("full"))
    assert list_names(path) == []


def test_block_that_writes_nothing_is_an_error(path):
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_what_a_killed_process_left_is_overwritten(path):
    with replacing(path) as temporary:
        temporary.write_text("whole")
    temporary.write_text("left behind")
    with replacing(path) as temporary, open(temporary, "a") as file:
        file.write("appended")
    assert path.read_text() == "appended"


# Keras and numpy go by the suffix, or add their own where it is missing.
@pytest.mark.parametrize(
    "name", ["best.keras", "state.npz", "a.b.png", "flags"]
)
def test_temporary_file_stands_beside_with_the_same_suffix(name, tmp_path):
    path = tmp_path / name
    with replacing(str(path)) as temporary:
        assert temporary != path
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix
        temporary.write_bytes(b"")
    assert path.exists()


def test_contents_reach_the_disk_before_the_name(path, monkeypatch):
    calls = []
    synchronize, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        calls.append(("fsync", os.fstat(descriptor).st_ino))
        synchronize(descriptor)

    def record_replace(source, target):
        calls.append(("replace", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    with replacing(path) as temporary:
        temporary.write_text("new")
    inode = path.stat().st_ino
    assert calls == [("fsync", inode), ("replace", inode)]
