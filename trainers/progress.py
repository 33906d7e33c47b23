"""What training says while it runs: a bar, and a line for each epoch."""

import datetime
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from collections.abc import Mapping

import keras
from tqdm import tqdm

from trainers.files import make_path
from trainers.files import replacing


class StepClock(keras.callbacks.Callback):
    """Times the steps of an epoch, and how long they wait for their batches.

    The first step of a `fit`, in which it is compiled, is left out, unless an
    epoch has no other. States that are written between steps count.

    The wait is measured where Python fetches the batch: on JAX and PyTorch,
    where Keras does so, between two steps; on TensorFlow with one step per
    execution, where the step's function is given an iterator of the fetched
    batch, which Keras and `DistributedModel` take as they take TensorFlow's.
    Of several steps, batches are fetched within a compiled function, and the
    wait is unknown. Steps are one after the other, because each loss is looked
    at; so while training waits, its device does nothing.

    Put it after the other callbacks, whose time it would take for a wait.

    Args:
        batch_size: examples in a step, on all devices together.

    Attributes:
        images_per_second: of the epoch, up to now.
        waiting_share: part of that time in which batches were waited for, or
            `None` if it is unknown.
    """

    def __init__(self, batch_size: int):
        super().__init__()
        self.batch_size = batch_size
        self._train_function = None
        self._knows_wait = False
        self._start(steps_before=0)

    @property
    def images_per_second(self) -> float:
        return self._images / self._seconds if self._seconds else 0.0

    @property
    def waiting_share(self) -> float | None:
        if not self._knows_wait or not self._seconds:
            return None
        return self._waited / self._seconds

    def on_train_begin(self, logs=None):
        self._is_compiled = False
        self._knows_wait = True
        if keras.backend.backend() != "tensorflow":
            return
        self._knows_wait = self.model.steps_per_execution == 1
        if self._knows_wait and self._train_function is None:
            self._train_function = self.model.train_function
            self.model.train_function = self._run_step

    def on_train_end(self, logs=None):
        if self._train_function is not None:
            self.model.train_function = self._train_function
            self._train_function = None

    def on_epoch_begin(self, epoch, logs=None):
        self._start(steps_before=0)

    def on_train_batch_begin(self, batch, logs=None):
        # On TensorFlow, nothing is fetched until the step begins.
        if self._train_function is None:
            self._waited += time.perf_counter() - self._end

    def on_train_batch_end(self, batch, logs=None):
        steps = batch + 1
        if not self._is_compiled and steps < self.params["steps"]:
            self._start(steps_before=steps)
        self._is_compiled = True
        self._end = time.perf_counter()
        self._images = (steps - self._steps_before) * self.batch_size
        self._seconds = self._end - self._begin

    def _start(self, steps_before):
        self._begin = self._end = time.perf_counter()
        self._steps_before = steps_before
        self._images = 0
        self._seconds = self._waited = 0.0

    def _run_step(self, iterator):
        begin = time.perf_counter()
        batch = next(iterator)
        self._waited += time.perf_counter() - begin
        return self._train_function(iter([batch]))


class EpochLog:
    """The lines of a run's epochs, in a file.

    Args:
        path: the file, in an existing folder.
    """

    def __init__(self, path: os.PathLike):
        self.path = make_path(path)
        self._lines = []

    def roll_back(self, epochs: int) -> None:
        """Takes out what is not of the first `epochs` epochs."""
        lines = []
        if self.path.exists():
            # A damaged file is none to stop for.
            contents = self.path.read_bytes().decode(errors="replace")
            lines = contents.splitlines()
        numbers = [re.match(r"Epoch +(\d+)/", line) for line in lines]
        self._lines = [
            line
            for line, number in zip(lines, numbers, strict=True)
            if number and int(number[1]) <= epochs
        ]
        if self._lines != lines:
            self._write()

    def add(self, line: str) -> None:
        """Adds the line of the next epoch."""
        self._lines.append(line)
        self._write()

    def _write(self):
        with replacing(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in self._lines))


class Progress(keras.callbacks.Callback):
    """Shows a bar on a terminal, and says and logs a line after each epoch.

    Put it before what saves an epoch: a line that is written before is taken
    out again by `EpochLog.roll_back`, while one that is missing would stay so.

    Args:
        clock: times the steps.
        log: where the lines go.
        epochs: number of epochs of the whole run.
        steps: number of steps in a whole epoch.
    """

    def __init__(
        self, clock: StepClock, log: EpochLog, *, epochs: int, steps: int
    ):
        super().__init__()
        self.clock = clock
        self.log = log
        self.epochs = epochs
        self.steps = steps
        self._bar = None
        # Validation and saving, of the epoch before.
        self._seconds_besides = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = self._end = time.perf_counter()
        self._epoch = epoch
        # The rest of an epoch has fewer steps than one.
        self._steps_before = self.steps - self.params["steps"]
        # tqdm shows nothing where a terminal does not know its size.
        columns, lines = shutil.get_terminal_size()
        self._bar = tqdm(
            desc=f"Epoch {epoch + 1}/{self.epochs}",
            total=self.steps * self.clock.batch_size,
            initial=self._steps_before * self.clock.batch_size,
            # With all that there is to say, within 80 columns.
            bar_format="{desc} |{bar}| {rate_fmt}{postfix}",
            unit=" images",
            unit_scale=True,
            ncols=columns - 1,
            nrows=lines,
            leave=False,
            file=sys.stdout,
            disable=not sys.stdout.isatty(),
        )

    def on_train_batch_end(self, batch, logs=None):
        self._end = time.perf_counter()
        if self._bar.disable:
            return
        step = self._steps_before + batch + 1
        self._bar.set_postfix_str(
            f"loss {float(logs['loss']):.3g}, "
            f"{_describe_wait(self.clock.waiting_share)}, "
            f"left {self._describe_rest(step)}",
            refresh=False,
        )
        self._bar.update(step * self.clock.batch_size - self._bar.n)

    def on_test_begin(self, logs=None):
        if self._bar is not None:
            self._bar.set_postfix_str("validation")

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        self._seconds_besides = now - self._end
        self._close_bar()
        line = format_epoch(
            epoch + 1,
            self.epochs,
            logs,
            images_per_second=self.clock.images_per_second,
            waiting_share=self.clock.waiting_share,
            seconds=now - self._begin,
        )
        print(line, flush=True)
        self.log.add(line)

    def on_train_end(self, logs=None):
        self._close_bar()

    def _close_bar(self):
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _describe_rest(self, step):
        """Says the time to the end of the steps of this epoch, and to all's."""
        speed = self.clock.images_per_second
        if not speed:
            return "unknown"
        epochs = self.epochs - self._epoch - 1
        steps = self.steps - step
        in_epoch, in_all = (
            number * self.clock.batch_size / speed
            for number in (steps, steps + epochs * self.steps)
        )
        in_all += (epochs + 1) * self._seconds_besides
        return " of ".join(map(tqdm.format_interval, (in_epoch, in_all)))


def format_epoch(
    epoch: int,
    epochs: int,
    logs: Mapping[str, float],
    *,
    images_per_second: float,
    waiting_share: float | None,
    seconds: float,
) -> str:
    """Returns what there is to say of an epoch, a line.

    Args:
        epoch: its number, from 1.
        epochs: number of epochs of the whole run.
        logs: what `fit` reports of it.
        images_per_second: in its steps.
        waiting_share: part of their time in which batches were waited for, or
            `None` if it is unknown.
        seconds: that it took, with validation.
    """
    width = len(str(epochs))
    return "  ".join(
        [
            f"Epoch {epoch:>{width}}/{epochs}",
            *_describe_metrics(logs),
            f"{images_per_second:,.0f} images/s",
            _describe_wait(waiting_share),
            _describe_seconds(seconds),
        ]
    )


def _describe_metrics(logs) -> Iterator[str]:
    yield f"loss {logs['loss']:.4f}, top-1 {logs['accuracy']:.2%}"
    for prefix, name in (("val_", "validation"), ("val_average_", "average")):
        if f"{prefix}loss" in logs:
            yield (
                f"{name} {logs[f'{prefix}loss']:.4f}, "
                f"{logs[f'{prefix}accuracy']:.2%}"
            )


def _describe_wait(share):
    return "wait unknown" if share is None else f"wait {share:.0%}"


def _describe_seconds(seconds):
    return str(datetime.timedelta(seconds=round(seconds)))
