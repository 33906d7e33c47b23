import io
import os
import sys
import types

import pytest

from export import image_files
from export.image_files import find_images
from export.image_files import read_image


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with images and what is none."""
    for name in (
        "b.png",
        "a.JPG",
        "notes.txt",
        ".hidden.png",
        "scan[1].png",
        "scans/z.jpeg",
        "scans/deep/c.WebP",
        "scans/deep/d.bmp",
        "scans/.thumbnails/c.png",
        "texts/notes.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["notes.txt", "absent.png", "b.png"], None),
        (["scans"], ["scans/z.jpeg", "scans/deep/c.WebP", "scans/deep/d.bmp"]),
        (["[ab].*"], ["a.JPG", "b.png"]),
        (["scans/*"], ["scans/z.jpeg"]),
        (
            ["**/*.[Wb]*", "b.png"],
            ["scans/deep/c.WebP", "scans/deep/d.bmp", "b.png"],
        ),
        # A file bears the name, though it is a pattern of others.
        (["scan[1].png"], None),
        (["scan[[]*.png"], ["scan[1].png"]),
    ],
)
def test_files_folders_and_patterns_name_images(folder, arguments, expected):
    found = list(find_images(arguments))
    assert found == [(path, "") for path in expected or arguments]


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("texts", "holds no images"),
        ("*.tiff", "matches no images"),
        ("texts/*", "matches no images"),
    ],
)
def test_what_names_no_image_is_reported(folder, argument, error):
    found = list(find_images(["b.png", argument]))
    assert found == [("b.png", ""), (argument, error)]


def set_input(monkeypatch, contents):
    stdin = types.SimpleNamespace(buffer=io.BytesIO(contents))
    monkeypatch.setattr(sys, "stdin", stdin)


def test_standard_input_lists_files(monkeypatch):
    set_input(monkeypatch, b"b.png\n\n  \n two words.png\r\n*.png\n\xff.png")
    paths = [path for path, error in find_images(["-"]) if not error]
    assert paths == ["b.png", " two words.png", "*.png", "\udcff.png"]


@pytest.mark.parametrize(
    ("contents", "error"),
    [
        (b"\n", "lists no files"),
        (b"a\0b\0", "must list a name on each line, without zero bytes"),
    ],
)
def test_input_that_lists_no_file_is_reported(monkeypatch, contents, error):
    set_input(monkeypatch, contents)
    assert list(find_images(["-"])) == [("-", error)]


def test_links_in_folders_are_followed_once(folder):
    os.symlink(folder / "scans", folder / "texts" / "linked")
    os.symlink(folder / "texts", folder / "texts" / "circle")
    os.symlink("nowhere", folder / "texts" / "broken.png")
    assert [path for path, _ in find_images(["texts"])] == [
        "texts/broken.png",
        "texts/linked/z.jpeg",
        "texts/linked/deep/c.WebP",
        "texts/linked/deep/d.bmp",
    ]
    with pytest.raises(ValueError, match=r"^cannot be read: No such file"):
        read_image("texts/broken.png")


def test_folder_that_cannot_be_read_is_reported(folder, monkeypatch):
    scan = os.scandir

    # Root may read all.
    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(find_images(["scans"])) == [
        ("scans/z.jpeg", ""),
        ("scans/deep", "cannot be read: Permission denied"),
    ]


def test_files_are_found_as_they_are_asked_for(folder):
    found = find_images(["b.png", "scans"])
    assert next(found) == ("b.png", "")
    (folder / "scans" / "y.png").touch()
    assert next(found) == ("scans/y.png", "")


def test_read_image_returns_the_contents(folder):
    assert read_image("scans/z.jpeg") == b"scans/z.jpeg"


def test_what_is_no_file_is_not_read(folder):
    os.mkfifo("pipe.png")
    with pytest.raises(ValueError, match=r"^is no file but a pipe"):
        read_image("pipe.png")
    with pytest.raises(ValueError, match=r"^is a folder$"):
        read_image("scans")


def test_huge_file_is_refused_before_it_is_read(folder):
    # It takes no room on the disk.
    with open("huge.png", "wb") as file:
        file.truncate(image_files.MOST_BYTES + 1)
    with pytest.raises(ValueError, match=r"^has more than 256 MiB$"):
        read_image("huge.png")
