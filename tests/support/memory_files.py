"""A file system of Apache Beam in memory, as object stores are: no folders."""

import io
import threading

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystem import FileSystem

# Of all the instances, which Beam makes as it needs them.
contents = {}
_lock = threading.Lock()


class MemoryFileSystem(FileSystem):
    """Knows paths such as memory://bucket/name, as long as it is imported."""

    @classmethod
    def scheme(cls):
        return "memory"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path):
        raise BeamIOError("There are no folders", {path: OSError("none")})

    def has_dirs(self):
        return False

    def _list(self, dir_or_prefix):
        for path in list(contents):
            if path.startswith(dir_or_prefix):
                yield self.metadata(path)

    def create(self, path, mime_type=None, compression_type=None):
        return _Writer(path)

    def open(self, path, mime_type=None, compression_type=None):
        self._check(path)
        return io.BytesIO(contents[path])

    def copy(self, source_file_names, destination_file_names):
        pairs = zip(source_file_names, destination_file_names, strict=True)
        for source, destination in pairs:
            self._check(source)
            contents[destination] = contents[source]

    def rename(self, source_file_names, destination_file_names):
        pairs = zip(source_file_names, destination_file_names, strict=True)
        for source, destination in pairs:
            self._check(source)
            with _lock:
                contents[destination] = contents.pop(source)

    def exists(self, path):
        return path in contents

    def size(self, path):
        self._check(path)
        return len(contents[path])

    def last_updated(self, path):
        self._check(path)
        return 0.0

    def checksum(self, path):
        return str(self.size(path))

    def metadata(self, path):
        return FileMetadata(path, self.size(path), 0.0)

    def delete(self, paths):
        for path in paths:
            self._check(path)
            del contents[path]

    def _check(self, path):
        if path not in contents:
            raise BeamIOError("No file", {path: OSError(f"{path} is missing")})


class _Writer(io.BytesIO):
    """What is written appears when it is whole."""

    def __init__(self, path):
        super().__init__()
        self._path = path

    def close(self):
        if not self.closed:
            contents[self._path] = self.getvalue()
        super().close()
