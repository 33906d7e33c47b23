"""Processes that run one contestant each, when they are asked.

Contestants of a case are asked in turn, so that what else the machine does
meets all of them. Each has a process of its own: the threads of one framework
then do not take the place of another's, and its memory can be told.

A framework takes seconds to import. So each has one launcher, a process that
imports it, starts none of its threads, and is forked for every worker.
"""

import dataclasses
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

from tqdm import tqdm

from benchmarks import frameworks

MIB = 2**20
# A call that is quicker is made once untimed in each turn, because the others
# have emptied the caches since the last.
_LONG_CALL = 0.1
_WARM_UP_CALLS = 2


class Setting(NamedTuple):
    """What all workers of a run have in common.

    Attributes:
        threads: number of threads a framework may use.
        memory_limit: bytes a worker may allocate.
        seconds: time a contestant may take for its timed calls of a case.
        max_rounds: number of timed calls that are enough.
    """

    threads: int = 2
    memory_limit: int = 16 * 1024 * MIB
    seconds: float = 3.0
    max_rounds: int = 25


class Task(NamedTuple):
    """What a worker does.

    Attributes:
        framework: `"keras"` or `"torch"`.
        build: function of a module that returns a step, which is a function
            without arguments, and a dictionary of facts to report.
        arguments: of `build`.
    """

    framework: str
    build: Callable[..., tuple[Callable[[], Any], dict[str, Any]]]
    arguments: tuple


@dataclasses.dataclass
class Measurement:
    """What is known of a contestant after its turns.

    Attributes:
        seconds: of each timed call.
        peak: bytes that the process needed beyond those of the framework.
        library: those of them that are the framework's code, used for the
            first time.
        facts: what `Task.build` returned.
        error: why there are no times, or empty.
    """

    seconds: list[float] = dataclasses.field(default_factory=list)
    peak: int = 0
    library: int = 0
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Launcher:
    """Starts the workers of one framework; a context manager."""

    def __init__(self, framework: str, setting: Setting):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_launch, args=(theirs, framework, setting)
        )
        self._process.start()
        theirs.close()

    def start(self, task: Task) -> "Worker":
        ours, theirs = multiprocessing.Pipe()
        self._connection.send((theirs, task))
        theirs.close()
        return Worker(ours)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.close()
        self._process.join()


class Worker:
    """One contestant in its process."""

    def __init__(self, connection):
        self._connection = connection
        self.measurement = Measurement()

    def wait(self) -> None:
        """Waits until the contestant is built and has run."""
        reply = self._ask(None)
        if reply is not None:
            self.measurement.facts = reply

    def take_turn(self) -> None:
        """Times one call."""
        reply = self._ask("time")
        if reply is not None:
            seconds, self.measurement.peak, self.measurement.library = reply
            self.measurement.seconds.append(seconds)

    def needs_turn(self, setting: Setting) -> bool:
        """Returns whether there are too few timed calls."""
        seconds = self.measurement.seconds
        if self.measurement.error or len(seconds) >= setting.max_rounds:
            return False
        return len(seconds) < 3 or sum(seconds) < setting.seconds

    def stop(self) -> None:
        self._connection.close()

    def _ask(self, question):
        try:
            if question is not None:
                self._connection.send(question)
            reply = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            reply = RuntimeError("the process ended, likely out of memory")
        if isinstance(reply, Exception):
            self.measurement.error = " ".join(str(reply).split())[:200]
            return None
        return reply


def measure(
    tasks: dict[str, Task], launchers: dict[str, Launcher], setting: Setting
) -> dict[str, Measurement]:
    """Times contestants in turn.

    Args:
        tasks: one for each contestant, by its name.
        launchers: by the name of the framework.
        setting: how long and on what.

    Returns:
        A measurement for each contestant, by its name.
    """
    workers = {}
    for name, task in tqdm(tasks.items(), "building", leave=False):
        workers[name] = launchers[task.framework].start(task)
        # One after the other, for two that compile might need too much memory.
        workers[name].wait()
    while waiting := [w for w in workers.values() if w.needs_turn(setting)]:
        for worker in waiting:
            worker.take_turn()
    for worker in workers.values():
        worker.stop()
    return {name: worker.measurement for name, worker in workers.items()}


def _launch(connection, framework, setting):
    frameworks.load(framework)
    context = multiprocessing.get_context("fork")
    while True:
        try:
            theirs, task = connection.recv()
        except EOFError:
            return
        worker = context.Process(
            target=_serve, args=(theirs, task, setting), daemon=True
        )
        worker.start()
        theirs.close()
        # Reaps the workers that have ended.
        multiprocessing.active_children()


def _serve(connection, task, setting):
    try:
        _limit_resources(setting)
        frameworks.start(task.framework, setting.threads)
        baseline, library = read_memory("VmRSS"), read_memory("RssFile")
        step, facts = task.build(*task.arguments)
        for _ in range(_WARM_UP_CALLS):
            last = _time(step)
        reset_peak_memory()
        connection.send(facts)
        while connection.recv() == "time":
            if last < _LONG_CALL:
                step()
            last = _time(step)
            peak = read_memory("VmHWM") - baseline
            connection.send((last, peak, read_memory("RssFile") - library))
    except EOFError:
        return
    except Exception as error:
        connection.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _time(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _limit_resources(setting):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: setting.threads])
    limit = setting.memory_limit
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def read_memory(field: str) -> int:
    """Returns bytes of this process.

    Args:
        field: `"VmRSS"` for all now, `"VmHWM"` at most, `"RssFile"` for those
            of files, such as libraries.

    Raises:
        ValueError: If there is no such field.
    """
    with open("/proc/self/status") as status:
        for line in status:
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
    raise ValueError(f"There is no such field. Received: field={field!r}")


def reset_peak_memory() -> None:
    """Makes `read_memory("VmHWM")` forget what was before."""
    with open("/proc/self/clear_refs", "w") as references:
        references.write("5")
