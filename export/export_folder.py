"""The folder of an export: what is ours in it, and how it is replaced whole.

A new export is written to `.export.new-X` beside `export`, the earlier one is
moved to `.export.old-X`, the new one to `export`, and the earlier one is
removed. Both are locked meanwhile, so that another process knows whether what
it finds there was left by one that was killed.
"""

import contextlib
import json
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator

from export.exported_model import REPORT_FILE
from export.exported_model import hash_file
from export.formats import FORMATS
from trainers.program import UserError

HTML_FILE = "export_report.html"
# What TensorFlow writes, and what `saved_model.write` adds.
_SAVED_MODEL_FILES = (
    "assets/metadata.json",
    "fingerprint.pb",
    "saved_model.pb",
    "variables/variables.data-00000-of-00001",
    "variables/variables.index",
)
_MOST_NAMES = 4


def list_files(folder: pathlib.Path) -> dict[str, str]:
    """Returns the SHA-256 of each file in a folder but the report.

    Args:
        folder: folder of an export.

    Returns:
        Dictionary from paths in the folder, with `/` between their parts.
    """
    return {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / REPORT_FILE
    }


def prepare_export_dir(export_dir: pathlib.Path) -> None:
    """Tidies up after killed exports, and checks what is to be replaced.

    An export that was moved away, with none in its place, is moved back; what
    is left of others is removed. Prints what it did.

    Args:
        export_dir: folder to make or to replace.

    Raises:
        UserError: If replacing it would lose something, or if another process
            is exporting to it.
    """
    leftovers = _find_leftovers(export_dir)
    # The last one that was there goes back.
    for path in sorted(leftovers, key=os.path.getmtime, reverse=True):
        with _locking(path, export_dir) as is_locked:
            if is_locked:
                _tidy_up(path, export_dir)
    check_export_dir(export_dir)


def check_export_dir(export_dir: pathlib.Path) -> None:
    """Raises a `UserError` if replacing a folder would lose something."""
    if not export_dir.exists():
        return
    if not export_dir.is_dir():
        raise UserError(
            f"--export_dir must be a folder. Received: {export_dir}"
        )
    foreign = find_foreign(export_dir)
    if foreign:
        names = ", ".join(foreign[:_MOST_NAMES])
        if len(foreign) > _MOST_NAMES:
            names += f" and {len(foreign) - _MOST_NAMES} more"
        raise UserError(
            "--export_dir must be new, empty or an earlier export as it was "
            "written, because it is replaced; move it or what is yours away, "
            f"or choose another. Received: {export_dir}, which holds {names}"
        )


def find_foreign(folder: pathlib.Path) -> list[str]:
    """Finds what is not in a folder as an export left it.

    Returns:
        Paths in the folder, sorted; of what an export wrote and somebody
        changed, with a remark.
    """
    written = _read_written(folder)
    foreign = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            foreign.append(name)
        elif path.is_dir():
            if not any(file.startswith(f"{name}/") for file in written):
                foreign.append(f"{name}/")
        elif name not in written:
            # The report lists all but itself.
            if name != REPORT_FILE or not written:
                foreign.append(name)
        elif not path.is_file() or written[name] != hash_file(path):
            foreign.append(f"{name} (changed)")
    return foreign


@contextlib.contextmanager
def replacing_export(export_dir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a new folder that replaces an export when the block ends.

    Whatever the block raises, the earlier export stays as it is.

    Raises:
        UserError: If the folder cannot be made, or if the earlier one holds
            other files by now.
    """
    # Beside the old one, hence on the same disk, so that it can be renamed.
    token = secrets.token_hex(4)
    new = export_dir.with_name(f".{export_dir.name}.new-{token}")
    try:
        new.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--export_dir cannot be made: {error}") from error
    with _locking(new, export_dir):
        try:
            yield new
            check_export_dir(export_dir)
            _exchange(new, export_dir, token)
        finally:
            _remove(new)


def _exchange(new, export_dir, token):
    if not export_dir.exists():
        new.rename(export_dir)
        return
    old = export_dir.with_name(f".{export_dir.name}.old-{token}")
    with _locking(export_dir, export_dir):
        try:
            export_dir.rename(old)
            new.rename(export_dir)
        finally:
            if old.exists() and not export_dir.exists():
                old.rename(export_dir)
        _remove(old)


def _find_leftovers(export_dir):
    if not export_dir.parent.is_dir():
        return []
    pattern = rf"\.{re.escape(export_dir.name)}\.(new|old)-[0-9a-f]+"
    return [
        path
        for path in export_dir.parent.iterdir()
        if re.fullmatch(pattern, path.name)
        and path.is_dir()
        and not path.is_symlink()
    ]


def _tidy_up(path, export_dir):
    """Puts a folder that a killed export left back, or removes it."""
    is_old = path.name.startswith(f".{export_dir.name}.old-")
    names = {model_format.file_name for model_format in FORMATS}
    names |= {f"unfinished_{name}" for name in names}
    names |= {REPORT_FILE, f"partial-{REPORT_FILE}", HTML_FILE}
    is_ours = names.issuperset(child.name for child in path.iterdir())
    if is_ours and is_old and not export_dir.exists():
        path.rename(export_dir)
        print(f"Moved {export_dir} back, which a killed export had moved away.")
    elif is_ours and not (is_old and find_foreign(path)):
        _remove(path)
        print(f"Removed {path}, which a killed export left.")
    else:
        print(
            f"{path} holds more than a killed export may have left; look at it "
            "and remove it."
        )


def _remove(folder):
    """Removes an export, last the report, which says that it is one.

    What cannot be removed is left to the next export.
    """
    if not folder.exists():
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != REPORT_FILE:
            path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _read_written(folder):
    """Returns checksums of what the export in a folder wrote, by its report."""
    path = folder / REPORT_FILE
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_bytes())
        if "files" in report:
            return dict(report["files"])
        return _list_unlisted(folder, report)
    # It is the report of something else.
    except (AttributeError, LookupError, TypeError, ValueError):
        return {}


def _list_unlisted(folder, report):
    """Does so for an export of a version that listed no files.

    Those are known by their names and the size of all files of a format.
    """
    written = {}
    for row in report["formats"].values():
        name = row["file"]
        files = {name}
        if name == "saved_model":
            files = {f"{name}/{file}" for file in _SAVED_MODEL_FILES}
        paths = [folder / file for file in sorted(files)]
        paths = [path for path in paths if path.is_file()]
        if sum(path.stat().st_size for path in paths) == row["size"]:
            written |= {
                path.relative_to(folder).as_posix(): hash_file(path)
                for path in paths
            }
    return written


@contextlib.contextmanager
def _locking(folder: pathlib.Path, export_dir: pathlib.Path) -> Iterator[bool]:
    """Locks a folder within the block, wherever it is moved.

    The operating system releases the lock when the process ends, however it
    ends.

    Yields:
        Whether it is locked. On Windows and on some file systems of other
        machines it cannot be.

    Raises:
        UserError: If another process has locked it.
    """
    try:
        import fcntl
    except ImportError:
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        is_locked = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another process is exporting to {export_dir}; wait for it or "
                "choose another --export_dir."
            ) from None
        except OSError:
            is_locked = False
        yield is_locked
    finally:
        os.close(descriptor)
