"""Files of a labelling, here or on any file system that Apache Beam knows.

A path with a scheme, such as gs://bucket/labels, is on a file system of Beam;
any other is local. What reads and writes TFRecords does so with local files,
which are copied from there and to there.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from collections.abc import Iterator

from trainers import files
from trainers.program import UserError


def is_remote(path: str) -> bool:
    """Returns whether a path is on a file system of Beam."""
    return "://" in path


def join(folder: str, *names: str) -> str:
    """Returns the path of what lies in a folder."""
    return "/".join([folder.rstrip("/"), *names])


def match_files(pattern: str) -> list[tuple[str, int]]:
    """Finds files.

    Args:
        pattern: path in which `*`, `?` and `[...]` stand for parts of names.

    Returns:
        Path and bytes of each file, in the order of their paths.

    Raises:
        OSError: If it cannot be looked for.
    """
    from apache_beam.io.filesystem import BeamIOError
    from apache_beam.io.filesystems import FileSystems

    with _raising_os_errors():
        try:
            (result,) = FileSystems.match([pattern])
        except BeamIOError as error:
            # Of its one pattern.
            raise next(iter(error.exception_details.values())) from error
    return sorted(
        (found.path, found.size_in_bytes) for found in result.metadata_list
    )


def exists(path: str) -> bool:
    """Returns whether there is such a file or folder."""
    from apache_beam.io.filesystems import FileSystems

    with _raising_os_errors():
        return FileSystems.exists(path)


def make_folder(path: str) -> None:
    """Makes a folder and those above it where there are none.

    Object stores have no folders, and none is made there.
    """
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


@contextlib.contextmanager
def fetching(path: str) -> Iterator[pathlib.Path]:
    """Yields a local path of a file that may be elsewhere, to read it.

    Raises:
        OSError: If there is no such file, or it cannot be copied.
    """
    if not is_remote(path):
        yield pathlib.Path(path)
        return
    from apache_beam.io.filesystems import FileSystems

    with tempfile.TemporaryDirectory() as folder:
        local = pathlib.Path(folder, os.path.basename(path))
        with (
            _raising_os_errors(),
            FileSystems.open(path, "application/octet-stream") as source,
            local.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
        yield local


@contextlib.contextmanager
def replacing(path: str) -> Iterator[pathlib.Path]:
    """Writes a file so that `path` is always a whole one, old or new.

    Yields:
        Where to write the new file, a local path. It takes the place of the
        old one when the block ends, and is removed if the block raises.

    Raises:
        OSError: If it cannot be written.
    """
    if not is_remote(path):
        with files.replacing(path) as local:
            yield local
        return
    with tempfile.TemporaryDirectory() as folder:
        local = pathlib.Path(folder, os.path.basename(path))
        yield local
        _upload(local, path)


def read_records(
    path: str,
    fetch: Callable[[str], contextlib.AbstractContextManager] = fetching,
) -> Iterator[bytes]:
    """Yields the records of a file of TFRecords.

    Args:
        path: of the file.
        fetch: what makes a local path of it, or one that TensorFlow knows.

    Raises:
        UserError: If it cannot be read, is damaged or cut off.
    """
    import tensorflow as tf

    number = 0
    try:
        with fetch(path) as local:
            for record in tf.data.TFRecordDataset(
                str(local)
            ).as_numpy_iterator():
                yield record
                number += 1
    except tf.errors.DataLossError as error:
        raise UserError(
            f"{path} is damaged or cut off at record {number}; copy or write "
            "it once more."
        ) from error
    except (OSError, tf.errors.OpError) as error:
        reason = str(error).partition(";")[0]
        raise UserError(f"{path} cannot be read: {reason}.") from error


def _upload(local, path):
    from apache_beam.io.filesystems import FileSystems

    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/partial-{name}"
    with _raising_os_errors():
        with (
            local.open("rb") as source,
            FileSystems.create(temporary, "application/octet-stream") as target,
        ):
            shutil.copyfileobj(source, target)
        if FileSystems.exists(path):
            FileSystems.delete([path])
        FileSystems.rename([temporary], [path])


@contextlib.contextmanager
def _raising_os_errors():
    """Beam raises `ValueError` of a scheme that it does not know."""
    from apache_beam.io.filesystem import BeamIOError

    try:
        yield
    except (BeamIOError, ValueError) as error:
        raise OSError(" ".join(str(error).split())) from error
