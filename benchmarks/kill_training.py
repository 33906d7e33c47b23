"""Kills training at random moments and compares the end with a whole run.

    python -m benchmarks.kill_training --kills=50
    python -m benchmarks.kill_training --kills=9 --devices=mirrored \\
        --flags="--dropout_rate=0.1 --checkpoint_every_steps=2"

trains a small network on the digits with dropout, RandAugment, Mixup and an
average of its weights, on one device, mirrored and in two processes: once
without interruption, and again while SIGKILL, and every fifth time SIGTERM,
ends it at random moments: while it starts, trains, evaluates and saves. The
same command goes on each time. Run after run is killed until there were so
many kills.

The last states must have the same bits, metrics.csv too, and the events the
same tags and steps; it exits with code 1 if not. A run takes about a minute on
two CPU cores, 50 kills about an hour.
"""

import collections
import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow as tf
from absl import flags
from tensorflow.core.util import event_pb2

from trainers import run_folder
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program
from trainers.train_state import read_state

_KILLS = flags.DEFINE_integer("kills", 50, "Number of kills.", lower_bound=1)
_DEVICES = flags.DEFINE_multi_enum(
    "devices",
    ["one_device", "mirrored", "multi_worker"],
    ["one_device", "mirrored", "multi_worker"],
    "Where to train: one device, two logical CPUs, or two processes; the kills "
    "are spread over all that are given.",
)
_FLAGS = flags.DEFINE_string(
    "flags",
    "--dropout_rate=0.1 --rand_augment_layers=1 --mixup_alpha=0.2 "
    "--ema_momentum=0.99 --checkpoint_every_steps=3",
    "More flags of trainers.train_classifier.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Decides the moments.")
_WORK_DIR = flags.DEFINE_string(
    "work_dir", None, "Where the runs go, a folder; by default it is removed."
)

_SMALL = (
    "--depth=26",
    "--layout=CCCC",
    "--width_multiplier=0.125",
    "--image_size=8",
    "--batch_size=256",
    "--epochs=3",
    "--mode=train",
)
# Split before TensorFlow starts, as if it were two accelerators.
_TWO_CPUS = """
import functools
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
half = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [half, half])
tf.distribute.MirroredStrategy = functools.partial(
    tf.distribute.MirroredStrategy, ["CPU:0", "CPU:1"]
)
"""
_PROGRAM = "from trainers import train_classifier; train_classifier.run()"
_TERMINATED = 143


class Run:
    """A run that is started, killed and started again.

    Args:
        devices: `"one_device"`, `"mirrored"` or `"multi_worker"`.
        model_dir: its folder.
        extra: more flags.
    """

    def __init__(self, devices, model_dir, extra):
        self.model_dir = model_dir
        self.is_split = devices == "mirrored"
        self.workers = 2 if devices == "multi_worker" else 1
        self.arguments = [
            *_SMALL,
            f"--strategy={devices}",
            f"--model_dir={model_dir}",
            *extra,
        ]

    def start(self):
        """Starts the processes of the run."""
        program = (_TWO_CPUS if self.is_split else "") + _PROGRAM
        with open(f"{self.model_dir}.log", "a") as log:
            return [
                subprocess.Popen(
                    [sys.executable, "-c", program, *self.arguments],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                )
                for environment in self._list_environments()
            ]

    def finish(self):
        """Runs to the end.

        Raises:
            UserError: If a process fails.
        """
        for process in self.start():
            self._check(process.wait(), 0)

    def kill(self, seconds, number):
        """Runs, and kills after a time; returns whether it ended before."""
        processes = self.start()
        try:
            processes[0].wait(seconds)
        except subprocess.TimeoutExpired:
            for process in processes:
                process.send_signal(number)
        codes = [process.wait() for process in processes]
        for code in codes:
            self._check(code, 0, -number, _TERMINATED)
        return not any(codes)

    def _check(self, code, *expected):
        if code not in expected:
            raise UserError(
                f"Training failed with exit code {code}; see "
                f"{self.model_dir}.log"
            )

    def _list_environments(self):
        if self.workers == 1:
            return [{}]
        addresses = [f"127.0.0.1:{_find_port()}" for _ in range(self.workers)]
        return [
            {
                "TF_CONFIG": json.dumps(
                    {
                        "cluster": {"worker": addresses},
                        "task": {"type": "worker", "index": index},
                    }
                )
            }
            for index in range(self.workers)
        ]


def measure_seconds(run: Run) -> float:
    """Runs to the end; returns the seconds that it took."""
    start = os.times().elapsed
    run.finish()
    return os.times().elapsed - start


def compare(
    model_dir: pathlib.Path, other_dir: pathlib.Path
) -> tuple[int, list[str]]:
    """Compares two runs that are done.

    Returns:
        The number of bits that differ in the last states, and what differs
        besides.
    """
    state, other = (
        read_state(run_folder.list_states(folder)[-1])
        for folder in (model_dir, other_dir)
    )
    bits = sum(
        _count_bits(*pair)
        for pair in zip(state.values, other.values, strict=True)
    )
    facts = {
        "position": (state.epoch, state.step) == (other.epoch, other.step),
        "best score": state.best == other.best,
        "metrics.csv": _read(model_dir) == _read(other_dir),
        "events": read_events(model_dir) == read_events(other_dir),
    }
    return bits, [name for name, is_equal in facts.items() if not is_equal]


def read_events(model_dir: pathlib.Path) -> collections.Counter:
    """Counts the events of a run by folder, tag and step."""
    events = collections.Counter()
    for path in (model_dir / run_folder.LOGS_FOLDER).rglob("*.tfevents.*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            events.update(
                (path.parent.name, value.tag, event.step)
                for value in event.summary.value
            )
    return events


def _count_bits(value, other):
    value, other = (
        np.frombuffer(array.tobytes(), np.uint8) for array in (value, other)
    )
    return int(np.bitwise_count(value ^ other).sum())


def _read(model_dir):
    return (model_dir / run_folder.METRICS_FILE).read_bytes()


def _find_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def kill_runs(
    devices: str, folder: pathlib.Path, kills: int, extra: list[str]
) -> bool:
    """Kills runs until there were so many kills; compares each.

    Returns:
        Whether all are equal to an uninterrupted run.
    """
    chance = random.Random(f"{_SEED.value} {devices}")
    whole = Run(devices, folder / "whole", extra)
    seconds = measure_seconds(whole)
    print(f"{devices}: {seconds:.0f} s without interruption", flush=True)
    is_equal = True
    count = 0
    while count < kills:
        run = Run(devices, folder / f"killed_{count}", extra)
        before = count
        is_done = False
        while not is_done and count < kills:
            # More than one process cannot agree on when to save.
            is_gentle = count % 5 == 4 and run.workers == 1
            number = signal.SIGTERM if is_gentle else signal.SIGKILL
            is_done = run.kill(chance.uniform(0, 1.1 * seconds), number)
            count += not is_done
        run.finish()
        bits, others = compare(run.model_dir, whole.model_dir)
        print(
            f"{devices}: {count - before} kills, {bits} bits differ"
            + "".join(f", {name} too" for name in others),
            flush=True,
        )
        if bits or others:
            is_equal = False
        else:
            shutil.rmtree(run.model_dir)
    return is_equal


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    extra = shlex.split(_FLAGS.value)
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(_WORK_DIR.value or temporary)
        shares = [
            _KILLS.value // len(_DEVICES.value)
            + (n < _KILLS.value % len(_DEVICES.value))
            for n in range(len(_DEVICES.value))
        ]
        results = []
        for devices, kills in zip(_DEVICES.value, shares, strict=True):
            folder = root / devices
            folder.mkdir(parents=True)
            results.append(kill_runs(devices, folder, kills, extra))
    if not all(results):
        sys.exit(1)


if __name__ == "__main__":
    run_program(main)
