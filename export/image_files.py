"""Which image files a command line names, and what is in them."""

import glob
import os
import stat
import sys
from collections.abc import Iterable
from collections.abc import Iterator

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
# Photographs have a hundredth of it.
MOST_BYTES = 2**28


def find_images(arguments: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Finds image files, one after the other.

    Args:
        arguments: each is a file, whatever its name; or a folder, in which,
            and in the folders in it, the files with the suffix of an image
            are taken, but for those whose names begin with a dot, each folder
            once, even if links lead to it; or, if nothing bears its name, a
            pattern of such files as `glob` takes it; or `-` for standard
            input, which has the name of a file on each line.

    Yields:
        The path, and `""` or what is wrong with it: of a folder, a pattern or
        a list that names no image, and of a folder that cannot be read.
    """
    for argument in arguments:
        if argument == "-":
            yield from _report_none(argument, _read_list(), "lists no files")
        elif os.path.isdir(argument):
            yield from _report_none(
                argument, _walk(argument), "holds no images"
            )
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            yield from _report_none(
                argument, _match(argument), "matches no images"
            )
        else:
            yield argument, ""


def is_image_name(name: str) -> bool:
    """Returns whether a file of this name is one of an image, not hidden."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in IMAGE_SUFFIXES and not name.startswith(".")


def read_image(path: str) -> bytes:
    """Returns the contents of an image file.

    Raises:
        ValueError: With what is wrong with it, if it cannot be read or has
            more than 256 MiB.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ValueError("is a folder")
        # Reading a named pipe would wait forever.
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is no file but a pipe or a device")
        if status.st_size > MOST_BYTES:
            raise ValueError(f"has more than {MOST_BYTES >> 20} MiB")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error


def _report_none(argument, found, error):
    is_empty = True
    for item in found:
        is_empty = False
        yield item
    if is_empty:
        yield argument, error


def _read_list():
    # Names of files may be of any bytes.
    for line in sys.stdin.buffer:
        name = line.rstrip(b"\r\n")
        if b"\0" in name:
            yield "-", "must list a name on each line, without zero bytes"
        elif name.strip():
            yield os.fsdecode(name), ""


def _walk(folder):
    errors = []
    seen = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(
        folder, onerror=errors.append, followlinks=True
    ):
        for name in sorted(filter(is_image_name, names)):
            yield os.path.join(parent, name), ""
        inner = []
        for name in sorted(folders):
            target = os.path.realpath(os.path.join(parent, name))
            if not name.startswith(".") and target not in seen:
                seen.add(target)
                inner.append(name)
        folders[:] = inner
    for error in errors:
        yield error.filename, f"cannot be read: {error.strerror}"


def _match(pattern):
    for path in sorted(glob.iglob(pattern, recursive=True)):
        if is_image_name(os.path.basename(path)) and not os.path.isdir(path):
            yield path, ""
