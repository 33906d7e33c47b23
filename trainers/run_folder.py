"""The folder of a run: what it was asked to do, kept beside its results."""

import contextlib
import json
import os
import struct
import textwrap
import zipfile
import zlib
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping

from trainers.files import RemotePath
from trainers.files import fetching
from trainers.files import make_path
from trainers.files import replacing
from trainers.program import UserError

FLAGS_FILE = "flags.json"
METADATA_FILE = "metadata.json"
STATES_FOLDER = "states"
LAST_FILE = "last.keras"
BEST_FILE = "best.keras"
# Those that are left out, one on each line.
BAD_IMAGES_FILE = "bad_images.txt"
# What --dry_run draws.
BATCH_FILE = "augmented_batch.png"
METRICS_FILE = "metrics.csv"
# A line for each epoch, with its times.
LOG_FILE = "train.log"
CURVES_FILE = "training_curves.png"
RESULTS_FILE = "results.json"
CONFUSION_MATRIX_FILE = "confusion_matrix.png"
# Of events for TensorBoard.
LOGS_FOLDER = "logs"
# Of --mode=continuous_eval, and its folder of events.
CONTINUOUS_FILE = "continuous_eval.csv"
CONTINUOUS_FOLDER = "continuous_eval"
_EPOCH_FILE = "epoch.json"
_LOCK_FILE = ".lock"
# Of versions whose runs this one cannot go on with.
_OLD_STATE_FILE = "train_state.npz"
# What Keras raises of a file that is no model or a damaged one, depending on
# what it finds.
KERAS_ERRORS = (
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_OWN_NAMES = (
    BEST_FILE,
    LAST_FILE,
    METRICS_FILE,
    LOG_FILE,
    METADATA_FILE,
    RESULTS_FILE,
    CURVES_FILE,
    CONFUSION_MATRIX_FILE,
    STATES_FOLDER,
    LOGS_FOLDER,
)


def prepare_folder(model_dir: os.PathLike) -> None:
    """Makes the folder of a run and tries whether it can be written.

    Raises:
        UserError: If it cannot, or if it holds files of unknown origin that
            a run would replace, or a run of a version before this one.
    """
    model_dir = make_path(model_dir)
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        _try_writing(model_dir)
    except OSError as error:
        raise UserError(
            f"--model_dir must be a folder that can be written: "
            f"{error.strerror}. Received: {model_dir}"
        ) from error
    if (model_dir / _OLD_STATE_FILE).exists():
        raise UserError(
            f"{model_dir} holds the run of a version that saved "
            f"{_OLD_STATE_FILE}; choose another --model_dir."
        )
    if (model_dir / FLAGS_FILE).exists():
        return
    for name in _OWN_NAMES:
        if (model_dir / name).exists():
            raise UserError(
                f"{model_dir} holds {name} but no {FLAGS_FILE} that says what "
                "it is; choose another --model_dir."
            )


@contextlib.contextmanager
def locking(model_dir: os.PathLike) -> Iterator[None]:
    """Keeps other processes from training in a folder within the block.

    The operating system releases the lock when the process ends, however it
    ends. There is none for a folder that is not local, nor on Windows.

    Raises:
        UserError: If another process trains there.
    """
    model_dir = make_path(model_dir)
    try:
        import fcntl
    except ImportError:
        fcntl = None
    if fcntl is None or isinstance(model_dir, RemotePath):
        print(f"{model_dir} is not locked: let one run at a time use it.")
        yield
        return
    with open(model_dir / _LOCK_FILE, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another process is training in {model_dir}; wait for it or "
                "choose another --model_dir."
            ) from None
        except OSError as error:
            print(f"{model_dir} cannot be locked: {error.strerror}.")
        yield


def list_states(model_dir: os.PathLike) -> list:
    """Returns the files of states, the last one last."""
    folder = make_path(model_dir) / STATES_FOLDER
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if path.name.startswith("state-")),
        key=lambda path: path.name,
    )


def get_state_file(model_dir: os.PathLike, epoch: int, step: int):
    """Returns the file of a state: the later it is, the later its name."""
    name = f"state-{epoch:06d}-{step:09d}.npz"
    return make_path(model_dir) / STATES_FOLDER / name


def is_whole_model(path: os.PathLike) -> bool:
    """Returns whether the checksums within a `.keras` file are right."""
    try:
        with fetching(path) as local, zipfile.ZipFile(local) as archive:
            return archive.testzip() is None
    # What zipfile raises, depending on where the damage is.
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        LookupError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ):
        return False


def write_epoch(path: os.PathLike, epoch: int) -> None:
    """Adds to a local `.keras` file the number of its epoch, from 1."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_EPOCH_FILE, json.dumps(epoch))


def read_epoch(path: os.PathLike) -> int | None:
    """Returns what `write_epoch` wrote in a whole file, `None` if nothing."""
    with zipfile.ZipFile(path) as archive:
        if _EPOCH_FILE not in archive.namelist():
            return None
        return json.loads(archive.read(_EPOCH_FILE))


def write_json(path: os.PathLike, content: Mapping) -> None:
    """Writes a file so that `path` is always a whole one, old or new."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_json(path: os.PathLike) -> dict:
    """Reads what `write_json` wrote.

    Raises:
        UserError: If there is no such file, or it is damaged.
    """
    try:
        content = json.loads(make_path(path).read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"no names and values: {type(content).__name__}")
        return content
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. Train first, or give "
            "the --model_dir of a run."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}); mend it or choose another "
            "--model_dir."
        ) from error


def read_metadata(path: os.PathLike) -> dict:
    """Reads metadata.json.

    Returns:
        `"class_names"`, a list of str, and `"crop_fraction"`, the side of the
        central square that is looked at over the image's shorter side.

    Raises:
        UserError: If it is missing or damaged.
    """
    metadata = read_json(path)
    class_names = metadata.get("class_names")
    crop_fraction = metadata.get("crop_fraction")
    if not isinstance(class_names, list) or not all(
        isinstance(name, str) for name in class_names
    ):
        raise UserError(
            f"class_names in {path} must be a list of strings. "
            f"Received: {_shorten(class_names)}"
        )
    # A bool is an int, too.
    is_number = type(crop_fraction) in (int, float)
    if not is_number or not 0 < crop_fraction <= 1:
        raise UserError(
            f"crop_fraction in {path} must be above 0 and at most 1. "
            f"Received: {_shorten(crop_fraction)}"
        )
    return {"class_names": class_names, "crop_fraction": float(crop_fraction)}


def check_flags(
    model_dir: os.PathLike,
    saved: Mapping,
    new: Mapping,
    *,
    may_change: Collection[str],
    length: str = "epochs",
) -> None:
    """Refuses to go on with a run as if it were another.

    Args:
        model_dir: folder of the run.
        saved: flags of the run.
        new: the same flags with what was now given.
        may_change: names of the flags that need not be equal.
        length: name of the flag that may only grow.

    Raises:
        UserError: If another flag differs, or the run would be shorter.
    """
    differences = [
        f"--{name}={new[name]} instead of {saved[name]}"
        for name in saved
        if name not in may_change and new[name] != saved[name]
    ]
    if differences:
        raise UserError(
            f"The run in {model_dir} has other flags; leave them as they were "
            "or choose another --model_dir. Received: "
            f"{', '.join(differences)}"
        )
    if saved and new[length] < saved[length]:
        raise UserError(
            f"The run in {model_dir} can only become longer. Received: "
            f"--{length}={new[length]} instead of {saved[length]}"
        )


def _shorten(value):
    return textwrap.shorten(repr(value), 80, placeholder="...")


def _try_writing(folder):
    path = folder / "writable"
    if path.exists():
        return
    with replacing(path) as temporary:
        temporary.write_text("")
    path.unlink()
