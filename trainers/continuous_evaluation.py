"""Evaluates each network that a running training saves, in another process."""

import csv
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator

import tensorflow as tf

from trainers import evaluation
from trainers import event_log
from trainers import run_folder
from trainers import settings
from trainers.data.image_dataset import ImageDataset
from trainers.files import RemotePath
from trainers.files import make_path
from trainers.files import replacing
from trainers.program import UserError

_COLUMNS = ("epoch", "accuracy", "loss", "top_5_accuracy", "examples")
_SCALARS = ("accuracy", "loss", "top_5_accuracy")


def wait_for_run(
    model_dir: os.PathLike, *, timeout: float, interval: float = 5.0
) -> None:
    """Waits until a run has begun in a folder.

    Args:
        model_dir: folder of the run, which need not exist yet.
        timeout: seconds to wait at most.
        interval: seconds between looks.

    Raises:
        UserError: If none has begun by then.
    """
    path = make_path(model_dir) / run_folder.FLAGS_FILE
    if path.exists():
        return
    print(f"Waiting for a run to begin in {model_dir}.", flush=True)
    end = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() >= end:
            raise UserError(
                "--mode=continuous_eval needs the --model_dir of a run, and "
                f"none began in {timeout:g} seconds. Received: {model_dir}"
            )
        time.sleep(interval)


def follow(
    model_dir: os.PathLike,
    dataset: ImageDataset,
    *,
    batch_size: int,
    strategy: tf.distribute.Strategy,
    timeout: float,
    interval: float = 5.0,
) -> None:
    """Evaluates last.keras whenever it is new, until the run is done.

    It reads the files of the run and writes none of them: continuous_eval.csv
    gets a row for each epoch that is evaluated, and TensorBoard an event. An
    epoch that is over before the one before is evaluated is left out. Started
    again, it goes on; when the run was started anew, so do its rows.

    Args:
        model_dir: folder of the run.
        dataset: its validation split is evaluated on.
        batch_size: examples per step on all devices together.
        strategy: devices to run on.
        timeout: seconds without a new last.keras after which to end, as after
            a run that stopped early.
        interval: seconds between looks.

    Raises:
        UserError: If the run is of other classes or of a version that does not
            say the epoch of last.keras, or continuous_eval.csv is damaged.
    """
    model_dir = make_path(model_dir)
    log = EvaluationLog(model_dir)
    labels = evaluation.list_labels(dataset)
    model = None
    end = time.monotonic() + timeout
    for path, epoch in _list_new_networks(model_dir, interval):
        if path is not None and epoch != log.last_epoch:
            metadata = evaluation.read_metadata(model_dir, dataset)
            with strategy.scope():
                if model is None:
                    model = evaluation.load_model(path)
                else:
                    evaluation.load_weights(model, path)
            logits = evaluation.predict_logits(
                model, dataset, batch_size, metadata["crop_fraction"]
            )
            row = {
                # From 0, as in metrics.csv.
                "epoch": epoch - 1,
                **evaluation.measure(logits, labels),
                "top_5_accuracy": evaluation.measure_top_5(logits, labels),
            }
            log.add(row)
            print(
                f"Epoch {epoch}: loss {row['loss']:.4f}, top-1 "
                f"{row['accuracy']:.2%}, top-5 {row['top_5_accuracy']:.2%} of "
                f"{row['examples']:,} validation images",
                flush=True,
            )
            end = time.monotonic() + timeout
        epochs = settings.read_saved(model_dir).get("epochs", math.inf)
        if log.last_epoch >= epochs:
            print(f"All {log.last_epoch} epochs are done.")
            return
        if time.monotonic() >= end:
            print(f"No new network in {timeout:g} seconds: evaluation ends.")
            return


class EvaluationLog:
    """Rows of a file and their events, each epoch once.

    Args:
        model_dir: folder of the run.

    Raises:
        UserError: If the file is damaged.
    """

    def __init__(self, model_dir: os.PathLike):
        self.path = model_dir / run_folder.CONTINUOUS_FILE
        self.folder = (
            model_dir / run_folder.LOGS_FOLDER / run_folder.CONTINUOUS_FOLDER
        )
        self._rows = self._read()
        self._begin_events()

    @property
    def last_epoch(self) -> int:
        """The last epoch that is evaluated, from 1; 0 if there is none."""
        return self._rows[-1]["epoch"] + 1 if self._rows else 0

    def add(self, row: dict) -> None:
        """Adds the row of an epoch, and takes out those of later epochs."""
        rows = [old for old in self._rows if old["epoch"] < row["epoch"]]
        is_next = len(rows) == len(self._rows)
        self._rows = [*rows, row]
        if is_next:
            self._write_events(row)
        else:
            self._begin_events()
        with (
            replacing(self.path) as temporary,
            open(temporary, "w", newline="") as file,
        ):
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(self._rows)

    def _read(self):
        if not self.path.exists():
            return []
        try:
            rows = csv.DictReader(self.path.read_text().splitlines())
            return [
                {
                    "epoch": int(row["epoch"]),
                    "examples": int(row["examples"]),
                    **{name: float(row[name]) for name in _SCALARS},
                }
                for row in rows
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path} is damaged; delete it, and evaluation goes on "
                "with the next epoch."
            ) from error

    def _begin_events(self):
        # What a process wrote that was stopped before it wrote the row.
        event_log.remove_files(self.folder)
        self._writer = tf.summary.create_file_writer(str(self.folder))
        for row in self._rows:
            self._write_events(row)

    def _write_events(self, row):
        with self._writer.as_default():
            for name in _SCALARS:
                # Beside those of training and validation.
                tf.summary.scalar(f"epoch_{name}", row[name], step=row["epoch"])
        self._writer.flush()


def _list_new_networks(
    model_dir, interval
) -> Iterator[tuple[pathlib.Path | None, int | None]]:
    """Yields a copy of last.keras and its epoch, or `None`s if it is old."""
    path = model_dir / run_folder.LAST_FILE
    version = None
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, run_folder.LAST_FILE)
        while True:
            before, version = version, _get_version(path)
            if version is not None and version != before:
                # Opened once: of a file that is replaced now, all is old.
                copy.write_bytes(path.read_bytes())
                if run_folder.is_whole_model(copy):
                    yield copy, _read_epoch(copy, path)
                    continue
                # Not so in an object store; to be read again.
                version = None
            yield None, None
            time.sleep(interval)


def _get_version(path):
    try:
        if isinstance(path, RemotePath):
            found = tf.io.gfile.stat(str(path))
            return found.mtime_nsec, found.length
        # TensorFlow's has whole seconds only, of local files.
        found = path.stat()
        return found.st_mtime_ns, found.st_ino
    except (tf.errors.NotFoundError, FileNotFoundError):
        return None


def _read_epoch(copy, path):
    epoch = run_folder.read_epoch(copy)
    if epoch is None:
        raise UserError(
            f"{path} does not say of which epoch it is, because an earlier "
            "version saved it; go on with the training first."
        )
    return epoch
