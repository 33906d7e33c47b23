"""Which files are labelled, and which of them make a shard."""

import hashlib
import itertools
import os

import pytest

from export.labelling import inputs
from export.labelling.inputs import Inputs
from export.labelling.inputs import find_inputs
from export.labelling.inputs import plan_shards
from export.labelling.inputs import read_span
from export.labelling.inputs import write_inputs
from tests.support import memory_files
from trainers.program import UserError


@pytest.fixture
def folder(tmp_path):
    make_files(
        tmp_path / "photos",
        "b.png",
        "a/z.JPG",
        "a/deep/c.webp",
        ".hidden.png",
        ".thumbnails/c.png",
        "notes.txt",
    )
    make_files(
        tmp_path / "records",
        "train-00001-of-00002",
        "train-00000-of-00002",
        "labels.txt",
    )
    return tmp_path


def make_files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def find(folder, images):
    found = find_inputs(f"{folder}/{images}")
    for path, size in found.files:
        assert size == os.path.getsize(path)
    names = [path.removeprefix(f"{folder}/") for path, _ in found.files]
    return names, found.are_records


PHOTOS = ["photos/a/deep/c.webp", "photos/a/z.JPG", "photos/b.png"]
RECORDS = ["records/train-00000-of-00002", "records/train-00001-of-00002"]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("photos", PHOTOS),
        ("photos/", PHOTOS),
        ("photos/**", PHOTOS),
        ("photos/*", PHOTOS[2:]),
        ("photos/b.png", PHOTOS[2:]),
        ("records", RECORDS),
        ("records/train-*", RECORDS),
        ("records/train-00001-of-00002", RECORDS[1:]),
    ],
)
def test_folders_patterns_and_files_are_found(folder, images, expected):
    names, are_records = find(folder, images)
    assert [os.path.normpath(name) for name in names] == expected
    assert are_records == (expected[0] in RECORDS)


def test_folders_and_patterns_are_found_elsewhere(folder, monkeypatch):
    there = {
        f"memory://bucket/{path.relative_to(folder)}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    # Of a folder that begins alike.
    there["memory://bucket/photos2/d.png"] = b"d"
    monkeypatch.setattr(memory_files, "contents", there)
    for images, expected in (
        ("photos", PHOTOS),
        ("photos/*", PHOTOS[2:]),
        ("photos/**.webp", PHOTOS[:1]),
        ("photos/b.png", PHOTOS[2:]),
        ("records/", RECORDS),
        ("records/train-*", RECORDS),
    ):
        found = find_inputs(f"memory://bucket/{images}")
        paths = [path.removeprefix("memory://bucket/") for path, _ in found[0]]
        assert paths == expected, images
        assert found.are_records == (expected == RECORDS)


def test_a_file_that_is_gone_is_found_all_the_same(folder):
    (folder / "photos" / "gone.png").symlink_to(folder / "nowhere")
    found = find_inputs(f"{folder}/photos")
    assert (f"{folder}/photos/gone.png", -1) in found.files


@pytest.mark.parametrize(
    ("images", "received"),
    [
        ("nothing", "neither in"),
        ("photos/notes.txt", "neither in"),
        ("photos/*.gif", "neither in"),
        ("memory://bucket/photos", "neither in"),
        ("both", "both/a.png and "),
    ],
)
def test_neither_or_both_is_one_line(folder, images, received):
    make_files(folder / "both", "a.png", "train-00000-of-00001")
    path = images if "://" in images else f"{folder}/{images}"
    with pytest.raises(UserError, match="--images must name") as error:
        find_inputs(path)
    assert received in str(error.value)
    assert "\n" not in str(error.value)


def test_what_cannot_be_looked_for_is_one_line():
    with pytest.raises(UserError, match="Received: --images=nowhere://a"):
        find_inputs("nowhere://a")


# Any bytes but zero and slash may be in a name.
NAMES = ["a", "b\n", "\udce4\udcff", "c", "ü", "d e", "f"]
FILES = [(f"photos/{name}", size) for size, name in enumerate(NAMES)]


@pytest.mark.parametrize(
    ("are_records", "per_shard", "lengths"),
    [
        (False, 3, [3, 3, 1]),
        (False, 7, [7]),
        (False, 100, [7]),
        (True, 3, [1] * 7),
    ],
)
def test_each_file_is_in_one_shard(tmp_path, are_records, per_shard, lengths):
    found = Inputs(FILES, are_records)
    plan = plan_shards(found, per_shard)
    write_inputs(str(tmp_path), found)
    paths = [read_span(str(tmp_path), span) for span in plan.spans]
    assert [len(shard) for shard in paths] == lengths
    assert list(itertools.chain(*paths)) == [path for path, _ in FILES]
    contents = (tmp_path / inputs.INPUTS_FILE).read_bytes()
    assert plan.digest == hashlib.sha256(contents).hexdigest()


def test_digest_is_of_names_and_sizes():
    digests = {
        plan_shards(Inputs(files, False), 3).digest
        for files in (
            FILES,
            FILES[:-1],
            [*FILES[:-1], ("photos/g", 6)],
            [*FILES[:-1], ("photos/f", 7)],
        )
    }
    assert len(digests) == 4


def test_too_many_shards_are_refused():
    files = [("a", 1)] * 200_000
    with pytest.raises(UserError, match="Received: 100000 shards"):
        plan_shards(Inputs(files, False), 2)
    assert len(plan_shards(Inputs(files, False), 3).spans) == 66_667
