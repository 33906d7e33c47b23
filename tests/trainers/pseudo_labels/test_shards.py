"""Files here and elsewhere: whole or not there, and read as they are."""

import gzip
import os

import pytest
import tensorflow as tf

from tests.support import memory_files
from trainers.program import UserError
from trainers.pseudo_labels import shards


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    """An empty folder on either kind of file system."""
    if request.param == "local":
        yield str(tmp_path)
        return
    memory_files.contents.clear()
    yield "memory://bucket/labels"
    memory_files.contents.clear()


def write(path, contents):
    with shards.replacing(path) as local:
        local.write_bytes(contents)


def read(path):
    with shards.fetching(path) as local:
        return local.read_bytes()


def list_names(folder):
    return [
        os.path.basename(path)
        for path, _ in shards.match_files(shards.join(folder, "*"))
    ]


def test_what_is_written_is_read(folder):
    path = shards.join(folder, "a.json")
    assert not shards.exists(path)
    write(path, b"old and long")
    write(path, b"new")
    assert shards.exists(path)
    assert read(path) == b"new"
    assert list_names(folder) == ["a.json"]


def test_who_reads_the_old_file_sees_nothing_of_the_new(tmp_path):
    path = str(tmp_path / "a.json")
    write(path, b"old")
    with open(path, "rb") as file:
        write(path, b"new and long")
        assert file.read() == b"old"


def test_files_are_found_in_their_order_with_their_sizes(folder):
    for name, size in (("b-10", 3), ("b-2", 1), ("a-1", 2)):
        write(shards.join(folder, name), bytes(size))
    assert shards.match_files(shards.join(folder, "b-*")) == [
        (shards.join(folder, "b-10"), 3),
        (shards.join(folder, "b-2"), 1),
    ]
    assert shards.match_files(shards.join(folder, "c-*")) == []
    assert shards.match_files(shards.join(folder, "a-1")) == [
        (shards.join(folder, "a-1"), 2)
    ]


def test_a_local_folder_may_be_named_like_a_pattern(tmp_path):
    folder = tmp_path / "run[1]"
    folder.mkdir()
    write(f"{folder}/a", b"1")
    write(f"{tmp_path}/b", b"1")
    assert shards.match_files(f"{folder}/a") == [(f"{folder}/a", 1)]
    assert shards.match_files(str(folder)) == []
    write(f"{folder}/partial-1-a", b"1")
    shards.remove_partial(str(folder))
    assert os.listdir(folder) == ["a"]


def test_block_that_raises_leaves_the_old_file_alone(folder):
    path = shards.join(folder, "a")
    write(path, b"old")

    def write_half():
        with shards.replacing(path) as local:
            local.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert read(path) == b"old"
    assert list_names(folder) == ["a"]


def test_two_who_write_the_same_file_do_not_mix(folder):
    path = shards.join(folder, "a")
    with shards.replacing(path) as first, shards.replacing(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second, longer")
        assert not shards.exists(path)
    assert read(path) == b"first"


def test_what_was_killed_is_removed(folder):
    for name in ("partial-0-a", "a", "apartial-0"):
        write(shards.join(folder, name), b"1")
    shards.remove_partial(folder)
    assert list_names(folder) == ["a", "apartial-0"]


def test_upload_that_fails_leaves_nothing_behind(monkeypatch):
    def fail(self, sources, destinations):
        raise PermissionError("not allowed")

    memory_files.contents.clear()
    monkeypatch.setattr(memory_files.MemoryFileSystem, "rename", fail)
    with pytest.raises(OSError, match="not allowed"):
        write("memory://bucket/a", b"1")
    assert memory_files.contents == {}


def test_a_part_of_a_file_is_read(folder):
    path = shards.join(folder, "lines")
    write(path, b"first\nsecond\nthird\n")
    assert shards.read_part(path, 6, 13) == b"second\n"


def test_compressed_files_stay_so(folder):
    path = shards.join(folder, "a.gz")
    packed = gzip.compress(b"contents")
    write(path, packed)
    assert read(path) == packed
    assert shards.read_part(path, 0, 5) == packed[:5]


def test_missing_file_is_an_os_error(folder):
    path = shards.join(folder, "a")
    with pytest.raises(OSError, match="a"):
        read(path)
    with pytest.raises(OSError, match="a"):
        shards.read_part(path, 0, 1)


def test_unknown_scheme_is_an_os_error():
    for use in (shards.exists, shards.match_files, read):
        with pytest.raises(OSError, match="filesystem"):
            use("nowhere://bucket/a")


def write_records(path, records):
    with (
        shards.replacing(path) as local,
        tf.io.TFRecordWriter(str(local)) as writer,
    ):
        for record in records:
            writer.write(record)


def test_records_are_read(folder):
    path = shards.join(folder, "labels-00000-of-00001")
    records = [b"one", b"", b"three" * 1000]
    write_records(path, records)
    assert list(shards.read_records(path)) == records


@pytest.mark.parametrize("damage", ["cut off", "changed"])
def test_damaged_record_is_named(folder, damage):
    path = shards.join(folder, "labels-00000-of-00001")
    write_records(path, [b"one", b"two", b"three"])
    contents = bytearray(read(path))
    if damage == "cut off":
        # 16 bytes frame each record.
        del contents[16 + 3 + 16 + 1 :]
    else:
        contents[16 + 3 + 12] ^= 1
    write(path, bytes(contents))
    records = shards.read_records(path)
    assert next(records) == b"one"
    with pytest.raises(UserError) as error:
        next(records)
    assert str(error.value) == (
        f"{path} is damaged or cut off at record 1; copy or write it once more."
    )


def test_missing_records_are_one_line(folder):
    path = shards.join(folder, "labels-00000-of-00001")
    with pytest.raises(UserError) as error:
        next(shards.read_records(path))
    text = str(error.value)
    assert text.startswith(f"{path} cannot be read: ")
    assert "missing" in text or "No such file" in text
    assert "\n" not in text
    assert "function_node" not in text
