"""Files of a labelling, here or on any file system that Apache Beam knows.

A path with a scheme, such as gs://bucket/labels, is on a file system of Beam;
any other is local. What reads and writes TFRecords does so with local files,
which are copied from there and to there.
"""

import contextlib
import glob
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Callable
from collections.abc import Iterator

from trainers.program import UserError

# What is not whole begins with it.
_PARTIAL = "partial-"


def is_remote(path: str) -> bool:
    """Returns whether a path is on a file system of Beam."""
    return "://" in path


def join(folder: str, *names: str) -> str:
    """Returns the path of what lies in a folder."""
    return "/".join([folder.rstrip("/"), *names])


def match_files(pattern: str) -> list[tuple[str, int]]:
    """Finds files.

    Args:
        pattern: path in which `*`, `?` and `[...]` stand for parts of names,
            and `**` for folders, as many as there are. What bears such a
            name itself is found by it, and by what `glob.escape` returns.

    Returns:
        Path and bytes of each file, in the order of their paths.

    Raises:
        OSError: If it cannot be looked for.
    """
    if not is_remote(pattern):
        # Beam would look through all that is below the last folder whose
        # name is no pattern.
        is_name = os.path.lexists(pattern)
        paths = [pattern] if is_name else glob.glob(pattern, recursive=True)
        return [
            (path, os.path.getsize(path))
            for path in sorted(paths)
            if os.path.isfile(path)
        ]
    from apache_beam.io.filesystems import FileSystems

    with _raising_os_errors():
        (result,) = FileSystems.match([pattern])
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


def remove_partial(folder: str) -> None:
    """Removes what `replacing` left in a folder when it was killed.

    What another process is writing there is lost to it.
    """
    partial = join(glob.escape(folder), f"{_PARTIAL}*")
    for path, _ in match_files(partial):
        _remove(path)


def read_part(path: str, start: int, end: int) -> bytes:
    """Returns the bytes of a file from `start` to before `end`.

    Raises:
        OSError: If it cannot be read.
    """
    with _opening(path) as file:
        file.seek(start)
        return file.read(end - start)


@contextlib.contextmanager
def fetching(path: str) -> Iterator[pathlib.Path]:
    """Yields a local path of a file that may be elsewhere, to read it.

    Raises:
        OSError: If there is no such file, or it cannot be copied.
    """
    if not is_remote(path):
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = pathlib.Path(folder, os.path.basename(path))
        with _opening(path) as source, local.open("wb") as target:
            shutil.copyfileobj(source, target)
        yield local


@contextlib.contextmanager
def replacing(path: str) -> Iterator[pathlib.Path]:
    """Writes a file so that `path` is always a whole one, old or new.

    On a file system that cannot rename over a file, there is none for a
    moment.

    Yields:
        Where to write the new file, a local path. It takes the place of the
        old one when the block ends, and is removed if the block raises.

    Raises:
        OSError: If it cannot be written.
    """
    folder, _, name = path.rpartition("/")
    # Workers outlive a program that is killed, for a while; the next one's
    # would else write to the same file.
    name = f"{_PARTIAL}{uuid.uuid4().hex}-{name}"
    if is_remote(path):
        with tempfile.TemporaryDirectory() as local_folder:
            local = pathlib.Path(local_folder, name)
            yield local
            _upload(local, join(folder, name), path)
        return
    local = pathlib.Path(path).with_name(name)
    try:
        yield local
        # A machine that stops must not leave a new name for missing contents.
        with local.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(local, path)
    finally:
        local.unlink(missing_ok=True)


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
    except tf.errors.OpError as error:
        # Between the names of the file and of the operation.
        reason = error.message.rpartition("; ")[2].partition(" [Op:")[0]
        raise UserError(f"{path} cannot be read: {reason}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def _upload(local, temporary, path):
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    with _raising_os_errors():
        try:
            with (
                local.open("rb") as source,
                FileSystems.create(
                    temporary, compression_type=CompressionTypes.UNCOMPRESSED
                ) as target,
            ):
                shutil.copyfileobj(source, target)
            if FileSystems.exists(path):
                FileSystems.delete([path])
            FileSystems.rename([temporary], [path])
        except BaseException:
            with contextlib.suppress(Exception):
                FileSystems.delete([temporary])
            raise


def _remove(path):
    if not is_remote(path):
        pathlib.Path(path).unlink(missing_ok=True)
        return
    from apache_beam.io.filesystems import FileSystems

    with _raising_os_errors():
        FileSystems.delete([path])


@contextlib.contextmanager
def _opening(path):
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    with (
        _raising_os_errors(),
        # By its name it would be unpacked.
        FileSystems.open(
            path, compression_type=CompressionTypes.UNCOMPRESSED
        ) as file,
    ):
        yield file


@contextlib.contextmanager
def _raising_os_errors():
    """Makes `OSError` of what file systems raise, which each have their own."""
    try:
        yield
    except Exception as error:
        # Beam's tell of each path.
        reasons = getattr(error, "exception_details", None) or {"": error}
        reason = " ".join(str(next(iter(reasons.values()))).split())
        raise OSError(reason) from error
