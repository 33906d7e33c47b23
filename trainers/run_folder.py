"""The folder of a run: what it was asked to do, kept beside its results."""

import json
import os
import pathlib
import tempfile
from collections.abc import Collection
from collections.abc import Mapping

from trainers.files import replacing
from trainers.program import UserError

FLAGS_FILE = "flags.json"
METADATA_FILE = "metadata.json"
STATE_FILE = "train_state.npz"
LAST_FILE = "last.keras"
BEST_FILE = "best.keras"
# Those that are left out, one on each line.
BAD_IMAGES_FILE = "bad_images.txt"
METRICS_FILE = "metrics.csv"
CURVES_FILE = "training_curves.png"
RESULTS_FILE = "results.json"
CONFUSION_MATRIX_FILE = "confusion_matrix.png"
# Of events for TensorBoard.
LOGS_FOLDER = "logs"


def prepare_folder(model_dir: os.PathLike) -> None:
    """Makes the folder of a run and tries whether it can be written.

    Raises:
        UserError: If it cannot, or if it holds a model of unknown origin.
    """
    model_dir = pathlib.Path(model_dir)
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=model_dir).close()
    except OSError as error:
        raise UserError(
            f"--model_dir must be a folder that can be written: "
            f"{error.strerror}. Received: {model_dir}"
        ) from error
    if (model_dir / FLAGS_FILE).exists():
        return
    for name in (BEST_FILE, LAST_FILE):
        if (model_dir / name).exists():
            raise UserError(
                f"{model_dir} holds {name} but no {FLAGS_FILE} that says what "
                "it is; choose another --model_dir."
            )


def write_json(path: pathlib.Path, content: Mapping) -> None:
    """Writes a file so that `path` is always a whole one, old or new."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_json(path: pathlib.Path) -> dict:
    """Reads what `write_json` wrote.

    Raises:
        UserError: If there is no such file, or it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. Train first, or give "
            "the --model_dir of a run."
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); mend it or choose another "
            "--model_dir."
        ) from error


def read_flags(model_dir: os.PathLike) -> dict:
    """Returns the flags of the run in a folder, none for a new folder."""
    path = pathlib.Path(model_dir) / FLAGS_FILE
    return read_json(path) if path.exists() else {}


def check_flags(
    model_dir: os.PathLike,
    saved: Mapping,
    new: Mapping,
    *,
    may_change: Collection[str],
) -> None:
    """Refuses to go on with a run as if it were another.

    Args:
        model_dir: folder of the run.
        saved: flags of the run.
        new: the same flags with what was now given.
        may_change: names of the flags that need not be equal.

    Raises:
        UserError: If another flag differs, or there are fewer epochs.
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
    if saved and new["epochs"] < saved["epochs"]:
        raise UserError(
            f"The run in {model_dir} can only become longer. Received: "
            f"--epochs={new['epochs']} instead of {saved['epochs']}"
        )
