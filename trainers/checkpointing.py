"""Saves a run after each epoch so that a stopped one goes on as if it had not.

What is replaced is written beside under another name first: whenever the
process dies, the files of the last whole epoch are there.
"""

import csv
import os
import pathlib
from zipfile import BadZipFile

import keras
import numpy as np

from trainers import run_folder
from trainers.files import replacing
from trainers.program import UserError


class Checkpoint(keras.callbacks.Callback):
    """Writes last.keras, best.keras and the state to resume from.

    The best epoch has the highest validation accuracy; among equals, the
    lowest validation loss. Call `restore` before `fit`, and pass what it
    returns as `initial_epoch`. Put it after the other callbacks: what they
    wrote about an epoch is then there once the epoch counts as done.

    Args:
        model_dir: existing folder of the run.
    """

    def __init__(self, model_dir: os.PathLike):
        super().__init__()
        self.model_dir = pathlib.Path(model_dir)
        self.best = (-np.inf, -np.inf)

    def restore(self, model: keras.Model) -> int:
        """Gives a compiled model the state of the last whole epoch.

        Args:
            model: a compiled model, whose optimizer is built if need be.

        Returns:
            Number of epochs that are done; 0 if there is no state.

        Raises:
            UserError: If the state cannot be read or is of another model.
        """
        path = self.model_dir / run_folder.STATE_FILE
        if not path.exists():
            return 0
        epoch, best, values = _read_state(path)
        variables = _list_variables(model)
        if [v.shape for v in values] != [tuple(v.shape) for v in variables]:
            raise UserError(
                f"{path} is of another network or optimizer; delete it to "
                "train from the start, or choose another --model_dir."
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self.best = best
        return epoch

    def on_epoch_end(self, epoch, logs=None):
        # Rounded, because equal counts of right answers need not add up to
        # the same float.
        score = (round(logs["val_accuracy"], 6), -logs["val_loss"])
        if score > self.best:
            self.best = score
            self._save(run_folder.BEST_FILE)
        self._save(run_folder.LAST_FILE)
        # Last, because it says that the epoch is done.
        self._write_state(epoch + 1)

    def _save(self, name):
        with replacing(self.model_dir / name) as temporary:
            self.model.save(temporary)

    def _write_state(self, epoch):
        values = [
            keras.ops.convert_to_numpy(variable)
            for variable in _list_variables(self.model)
        ]
        with replacing(self.model_dir / run_folder.STATE_FILE) as temporary:
            # Without names, numpy calls them arr_0, arr_1, ... in order.
            np.savez(temporary, *values, epoch=epoch, best=self.best)


def drop_unfinished_metrics(model_dir: os.PathLike, epochs: int) -> None:
    """Removes from metrics.csv what a killed epoch had already written.

    Args:
        model_dir: folder of the run.
        epochs: number of epochs that are done, whose rows stay.
    """
    path = pathlib.Path(model_dir) / run_folder.METRICS_FILE
    if not path.exists():
        return
    with open(path, newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    # The epoch stands first.
    rows = [row for row in rows if row and int(row[0]) < epochs]
    with (
        replacing(path) as temporary,
        open(temporary, "w", newline="") as file,
    ):
        csv.writer(file).writerows([header, *rows] if rows else [])


def _list_variables(model):
    # The model's variables include the states of its random generators.
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


def _read_state(path):
    try:
        # Opened here, because numpy does not close what it cannot read.
        with open(path, "rb") as file, np.load(file) as state:
            values = [state[f"arr_{n}"] for n in range(len(state) - 2)]
            return int(state["epoch"]), tuple(state["best"]), values
    # What numpy raises for a file that was cut short, or is something else.
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise UserError(
            f"{path} is damaged; delete it to train from the start, or choose "
            f"another --model_dir. ({error})"
        ) from error
