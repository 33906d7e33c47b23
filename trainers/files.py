"""How files are replaced: whole, or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: os.PathLike) -> Iterator[pathlib.Path]:
    """Writes a file so that `path` is always a whole one, old or new.

    Args:
        path: the file to replace or to make, in an existing folder.

    Yields:
        Where to write the new file: beside the old one, with the same suffix.
        It takes the place of the old one when the block ends, and is removed
        if the block raises.
    """
    path = pathlib.Path(path)
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
