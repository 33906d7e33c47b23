"""The exported model that labels, here or on a file system of Beam."""

import contextlib
import glob
import hashlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from export.exported_model import hash_file
from trainers.program import UserError
from trainers.pseudo_labels import shards


@contextlib.contextmanager
def fetching_model(model: str) -> Iterator[pathlib.Path]:
    """Yields a local path of a model that may be elsewhere, to read it.

    Args:
        model: SavedModel folder, .tflite or .onnx file.

    Raises:
        UserError: If it cannot be copied.
    """
    if not shards.is_remote(model):
        yield pathlib.Path(model)
        return
    model = model.rstrip("/")
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder, os.path.basename(model))
        try:
            _copy(model, target)
        except OSError as error:
            raise UserError(
                f"--model cannot be copied: {error}. Received: {model}"
            ) from error
        yield target


def _copy(model, target):
    files = shards.match_files(shards.join(glob.escape(model), "**"))
    for path, _ in files or [(model, 0)]:
        local = pathlib.Path(f"{target}{path.removeprefix(model)}")
        local.parent.mkdir(parents=True, exist_ok=True)
        with shards.fetching(path) as source:
            shutil.move(source, local)


def compute_fingerprint(model: pathlib.Path, class_names: list[str]) -> str:
    """Returns 32 hexadecimal digits that are others of another model.

    They are the same wherever the model lies, and whatever its name.

    Args:
        model: SavedModel folder or file.
        class_names: one name per class.
    """
    digest = hashlib.sha256()
    for file in sorted([model, *model.rglob("*")]):
        if file.is_file():
            name = file.relative_to(model).as_posix()
            digest.update(f"{name}\0{hash_file(file)}\n".encode())
    digest.update("\0".join(class_names).encode(errors="surrogatepass"))
    return digest.hexdigest()[:32]
