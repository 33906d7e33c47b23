"""Saves a run so that a stopped one goes on as if it had not been stopped.

What is replaced is written beside under another name first: whenever the
process dies, whole files are there, and each state says by its checksum
whether it is whole.
"""

import csv
import os
import threading
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from signal import SIGTERM
from signal import signal

import keras
import numpy as np
import tensorflow as tf

from trainers import data_parallel
from trainers import event_log
from trainers import run_folder
from trainers import train_state
from trainers.files import make_path
from trainers.files import replacing
from trainers.program import Terminated
from trainers.program import UserError
from trainers.train_state import TrainState

_NO_SCORE = (-np.inf, -np.inf)


class Checkpoint(keras.callbacks.Callback):
    """Writes last.keras, best.keras, metrics.csv and states to resume from.

    The best epoch has the highest validation accuracy; among equals, the
    lowest validation loss. A state is written after each epoch, and within it
    every so many steps: the last of them decides where a run goes on.

    A model that trains a `network` has it saved, or, as the best, its
    `average` if that is better.

    Call `restore`, then `roll_back`, then `fit` from `epoch` and `step` on.
    Put it after the other callbacks: what they wrote about an epoch is then
    there once the epoch counts as done.

    Args:
        model_dir: existing folder of the run.
        every_steps: number of steps after which a state is written within an
            epoch. 0 if none is.
        keep: number of states to keep, the last ones.
        events: the callback that writes events, which are to be in their
            files before a state is written. `None` if there is none.
        writes: whether this process writes files. Of several workers, one
            does, and all call the same methods.

    Attributes:
        epoch: number of whole epochs that are done.
        step: number of steps that are done of the epoch after them.
    """

    def __init__(
        self,
        model_dir: os.PathLike,
        *,
        every_steps: int = 0,
        keep: int = 2,
        events: event_log.EventLog | None = None,
        writes: bool = True,
    ):
        super().__init__()
        self.model_dir = make_path(model_dir)
        self.every_steps = every_steps
        self.keep = keep
        self.events = events
        self.writes = writes
        self.best = _NO_SCORE
        self.epoch = 0
        self.step = 0
        self._rows = []
        self._event_sizes = {}
        self._metric_values = []
        self._damaged = []
        self._is_terminated = False

    def restore(self, model: keras.Model) -> None:
        """Gives a compiled model the last state that is whole.

        No file is changed.

        Args:
            model: a compiled model, whose optimizer is built if need be. Call
                this in the scope of its strategy.

        Raises:
            UserError: If no state is whole, it is of another model, or
                best.keras is damaged.
        """
        state = self._read_last_state()
        if state is None:
            return
        variables = _list_variables(model)
        if not _is_state_of(variables, state):
            raise UserError(
                f"The states in {self.model_dir / run_folder.STATES_FOLDER} "
                "are of another network or optimizer; delete the folder to "
                "train from the start, or choose another --model_dir."
            )
        self.best = self._check_best(state)
        for variable, value in zip(variables, state.values, strict=True):
            variable.assign(value)
        self.epoch, self.step = state.epoch, state.step
        self._rows = state.rows
        self._event_sizes = state.event_sizes
        self._metric_values = state.metric_values

    def roll_back(self) -> None:
        """Takes out of metrics.csv and the events what the state has not.

        A damaged metrics.csv is whole again then.
        """
        if not self.writes:
            return
        event_log.roll_back(self._logs_folder, self._event_sizes)
        self._write_rows()

    def count_epochs_since_best(self) -> int:
        """Returns how many whole epochs came after the best one."""
        scores = [score_epoch(row)[0] for row in self._rows]
        # The first of equals.
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0

    @contextmanager
    def saving_when_terminated(self) -> Iterator[None]:
        """Has SIGTERM, within the block, save a state after the current step.

        `Terminated` is raised then. Only the main thread gets signals.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal(SIGTERM, self._remember_termination)
        try:
            yield
        finally:
            signal(SIGTERM, previous)

    def on_epoch_begin(self, epoch, logs=None):
        self._steps_before = self.step
        if self._metric_values:
            # Keras has just reset them.
            _set_metrics(self.model, self._metric_values)
            self._metric_values = []

    def on_train_batch_end(self, batch, logs=None):
        before = self.step
        self.step = self._steps_before + batch + 1
        # After the last step comes the state of the whole epoch.
        if batch + 1 == self.params["steps"]:
            return
        is_due = self.every_steps and (
            self.step // self.every_steps > before // self.every_steps
        )
        if is_due or self._is_terminated:
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            self._write_state(_get_metrics(self.model))
        self._stop_if_terminated()

    def on_epoch_end(self, epoch, logs=None):
        score, is_average = score_epoch(logs)
        network = get_network(self.model)
        if score > self.best:
            self.best = score
            best = self.model.average if is_average else network
            self._save(best, run_folder.BEST_FILE, epoch)
        self._save(network, run_folder.LAST_FILE, epoch)
        self._rows.append({"epoch": epoch, **dict(sorted(logs.items()))})
        self._write_rows()
        self.epoch, self.step = epoch + 1, 0
        # Last, because it says that the epoch is done.
        self._write_state([])
        self._stop_if_terminated()

    @property
    def _logs_folder(self):
        return self.model_dir / run_folder.LOGS_FOLDER

    def _remember_termination(self, *_):
        self._is_terminated = True

    def _stop_if_terminated(self):
        if self._is_terminated:
            raise Terminated

    def _read_last_state(self):
        self._damaged = []
        for path in reversed(run_folder.list_states(self.model_dir)):
            try:
                state = train_state.read_state(path)
            except (train_state.DamagedStateError, OSError):
                self._damaged.append(path)
                continue
            for damaged in self._damaged:
                print(f"Warning: {damaged} is damaged; the one before is used.")
            return state
        if self._damaged:
            raise UserError(
                f"{self._damaged[0]} is damaged, and there is none before it "
                f"that is whole; delete {self._damaged[0].parent} to train "
                "from the start, or choose another --model_dir."
            )
        return None

    def _check_best(self, state):
        path = self.model_dir / run_folder.BEST_FILE
        if state.best == _NO_SCORE:
            return _NO_SCORE
        if not path.exists():
            print(
                f"Warning: {path} is missing; the best of the epochs from here "
                "on takes its place."
            )
            return _NO_SCORE
        if not run_folder.is_whole_model(path):
            raise UserError(
                f"{path} is damaged; delete it, and the best of the epochs "
                "from here on takes its place."
            )
        return state.best

    def _save(self, network, name, epoch):
        if self.writes:
            with (
                data_parallel.pausing(),
                replacing(self.model_dir / name) as temporary,
            ):
                network.save(temporary)
                run_folder.write_epoch(temporary, epoch + 1)

    def _write_rows(self):
        path = self.model_dir / run_folder.METRICS_FILE
        if not self.writes or not (self._rows or path.exists()):
            return
        with (
            replacing(path) as temporary,
            open(temporary, "w", newline="") as file,
        ):
            if self._rows:
                # Metrics that came later have no column.
                writer = csv.DictWriter(
                    file, self._rows[0], restval="NA", extrasaction="ignore"
                )
                writer.writeheader()
                writer.writerows(self._rows)

    def _write_state(self, metric_values):
        if not self.writes:
            return
        if self.events:
            self.events.flush()
        variables = _list_variables(self.model)
        path = run_folder.get_state_file(self.model_dir, self.epoch, self.step)
        path.parent.mkdir(exist_ok=True)
        train_state.write_state(
            path,
            TrainState(
                epoch=self.epoch,
                step=self.step,
                best=self.best,
                rows=self._rows,
                event_sizes=event_log.measure_files(self._logs_folder),
                names=[train_state.name_variable(v.path) for v in variables],
                values=[keras.ops.convert_to_numpy(v) for v in variables],
                metric_values=metric_values,
            ),
        )
        self._remove_others(path)

    def _remove_others(self, path):
        for damaged in self._damaged:
            # Unless the state has just taken its place.
            if damaged != path:
                damaged.unlink(missing_ok=True)
        self._damaged = []
        states = run_folder.list_states(self.model_dir)
        last = [state.name for state in states].index(path.name)
        # Those after it are of steps that were taken again.
        for state in [
            *states[: max(0, last + 1 - self.keep)],
            *states[last + 1 :],
        ]:
            state.unlink()


def score_epoch(logs: Mapping[str, float]) -> tuple[tuple[float, float], bool]:
    """Scores what an epoch came to.

    Args:
        logs: what `fit` reports of it.

    Returns:
        Accuracy and negative loss in validation, those of the average of the
        weights if there is one and it is better; and whether it is.
    """
    # Rounded, because equal counts of right answers need not add up to the
    # same float.
    scores = [
        (round(logs[f"{prefix}accuracy"], 6), -logs[f"{prefix}loss"])
        for prefix in ("val_", "val_average_")
        if f"{prefix}loss" in logs
    ]
    best = max(scores)
    return best, best != scores[0]


def get_network(model: keras.Model) -> keras.Model:
    """Returns the network that a model trains, a plain one, not compiled."""
    if hasattr(model, "network"):
        return model.network
    return keras.Model(model.inputs, model.outputs, name=model.name)


def _list_variables(model):
    # The model's variables include the states of its random generators.
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    metrics = {id(variable) for variable in model.metrics_variables}
    return [
        *(v for v in model.variables if id(v) not in metrics),
        *model.optimizer.variables,
    ]


def _is_state_of(variables, state):
    found = [
        (train_state.name_variable(variable.path), tuple(variable.shape))
        for variable in variables
    ]
    shapes = [value.shape for value in state.values]
    return found == list(zip(state.names, shapes, strict=True))


def _get_metrics(model):
    """Returns the values of each metric's variable on all replicas."""
    variables = model.metrics_variables
    if keras.backend.backend() != "tensorflow":
        return [keras.ops.convert_to_numpy(v)[np.newaxis] for v in variables]
    strategy = model.distribute_strategy
    on_replicas = strategy.run(
        lambda: [keras.ops.expand_dims(v.value, 0) for v in variables]
    )
    # Together, they would be taken for one value.
    return [strategy.gather(v, axis=0).numpy() for v in on_replicas]


def _set_metrics(model, values):
    _build_metrics(model)
    if keras.backend.backend() != "tensorflow":
        for variable, value in zip(
            model.metrics_variables, values, strict=True
        ):
            variable.assign(value.sum(axis=0))
        return
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    if values[0].shape[0] != replicas:
        # A run that goes on on other devices: what counts is their sum.
        values = [
            np.stack([value.sum(axis=0)] + [0 * value[0]] * (replicas - 1))
            for value in values
        ]

    def assign():
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group
        for variable, value in zip(
            model.metrics_variables, values, strict=True
        ):
            variable.assign(tf.gather(value, replica))

    strategy.run(assign)


def _build_metrics(model):
    # Without a strategy, Keras makes their variables in the first step.
    if any(not metric.variables for metric in model.metrics):
        classes = get_network(model).output_shape[-1]
        labels = np.zeros((1, classes), np.float32)
        model.compute_metrics(None, labels, labels, sample_weight=None)
        model.reset_metrics()
