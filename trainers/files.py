"""Files of a run: where they may be, and how they are replaced.

A path with a scheme, such as gs://bucket/run, is on a file system of
TensorFlow; any other is local.
"""

import contextlib
import errno
import os
import pathlib
import tempfile
from collections.abc import Iterator

# TensorFlow's, by the name of its error.
_CODES = {
    "NotFoundError": errno.ENOENT,
    "PermissionDeniedError": errno.EACCES,
    "ResourceExhaustedError": errno.ENOSPC,
    "AlreadyExistsError": errno.EEXIST,
}


def make_path(path: os.PathLike | str) -> "pathlib.Path | RemotePath":
    """Makes a local path, or a `RemotePath` of one with a scheme."""
    text = os.fspath(path)
    return RemotePath(text) if "://" in text else pathlib.Path(text)


class RemotePath(os.PathLike):
    """What this project needs of `pathlib.Path`, on TensorFlow's file systems.

    Methods raise `OSError` as those of `pathlib.Path` do. A folder need not be
    made for a file to be written in it where the file system has no folders.

    Args:
        path: str, with a scheme, such as `"gs://bucket/run"`.
    """

    def __init__(self, path: str):
        self._path = path.rstrip("/")

    def __fspath__(self):
        return self._path

    def __str__(self):
        return self._path

    def __repr__(self):
        return f"RemotePath({self._path!r})"

    def __eq__(self, other):
        return isinstance(other, RemotePath) and self._path == other._path

    def __hash__(self):
        return hash(self._path)

    def __truediv__(self, name):
        return RemotePath(f"{self._path}/{os.fspath(name)}")

    @property
    def name(self):
        return self._path.rpartition("/")[2]

    @property
    def parent(self):
        return RemotePath(self._path.rpartition("/")[0])

    def with_name(self, name):
        return self.parent / name

    def exists(self):
        with _open_gfile() as gfile:
            return gfile.exists(self._path)

    def is_dir(self):
        with _open_gfile() as gfile:
            return gfile.isdir(self._path)

    def mkdir(self, parents=False, exist_ok=False):
        del parents, exist_ok
        with _open_gfile() as gfile:
            gfile.makedirs(self._path)

    def iterdir(self):
        with _open_gfile() as gfile:
            names = gfile.listdir(self._path)
        return (self / name.rstrip("/") for name in names)

    def unlink(self, missing_ok=False):
        with _open_gfile() as gfile:
            if not missing_ok or gfile.exists(self._path):
                gfile.remove(self._path)

    def read_bytes(self):
        with _open_gfile() as gfile, gfile.GFile(self._path, "rb") as file:
            return file.read()

    def read_text(self):
        return self.read_bytes().decode()


@contextlib.contextmanager
def replacing(path: os.PathLike) -> Iterator[pathlib.Path]:
    """Writes a file so that `path` is always a whole one, old or new.

    Args:
        path: the file to replace or to make, in an existing folder.

    Yields:
        Where to write the new file, a local path: beside the old one if that
        is local, with the same suffix. It takes the place of the old one when
        the block ends, and is removed if the block raises.
    """
    path = make_path(path)
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory() as folder:
            temporary = pathlib.Path(folder, path.name)
            yield temporary
            _upload(temporary, path)
        return
    temporary = path.with_name(f"partial-{path.name}")
    # What a process left that was killed.
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        # A machine that stops must not leave a new name for missing contents.
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def fetching(path: os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a local path of a file that may be elsewhere, to read it."""
    path = make_path(path)
    if not isinstance(path, RemotePath):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local = pathlib.Path(folder, path.name)
        with _open_gfile() as gfile:
            gfile.copy(str(path), str(local))
        yield local


def is_disk_full(error: BaseException | None) -> bool:
    """Returns whether an error, or one that led to it, is of a full disk."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    while error is not None:
        # HDF5 and TensorFlow say it in words alone.
        if (
            getattr(error, "errno", None) in codes
            or "No space left on device" in str(error)
            or "File too large" in str(error)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _upload(local, path):
    temporary = path.with_name(f"partial-{path.name}")
    with _open_gfile() as gfile:
        gfile.copy(str(local), str(temporary), overwrite=True)
        gfile.rename(str(temporary), str(path), overwrite=True)


@contextlib.contextmanager
def _open_gfile():
    # Programs that need no TensorFlow replace local files, too.
    import tensorflow as tf

    try:
        yield tf.io.gfile
    except tf.errors.OpError as error:
        code = _CODES.get(type(error).__name__, errno.EIO)
        # Some have no message.
        lines = str(error).splitlines() or [os.strerror(code)]
        raise OSError(code, lines[0]) from error
