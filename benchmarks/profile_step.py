r"""Shows which operations of TensorFlow a step of ours spends its time in.

    python -m benchmarks.profile_step --layer=28x28x128 --scope=23
    python -m benchmarks.profile_step --network=resnet50_ccll

A layer's step is taken apart by kinds of operations, and its matrix products
and convolutions are compared with a large matrix product; a network's
inference by what belongs to lambda layers and what does not. Operations run
one after the other, each on all threads, so that their times add up.
"""

import collections
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

from absl import flags

from benchmarks import cases
from benchmarks import frameworks
from benchmarks import models
from benchmarks import reports
from benchmarks.arguments import check_names
from benchmarks.cases import Case
from benchmarks.workers import Measurement
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_LAYER = flags.DEFINE_string(
    "layer", None, f"A layer's inputs, one of {','.join(cases.SHAPES)}."
)
_NETWORK = flags.DEFINE_string(
    "network", None, "Or a network of Keras, see benchmarks.networks."
)
_SCOPE = flags.DEFINE_string("scope", "23", "The layer's scope, in pixels.")
_MODE = flags.DEFINE_string("mode", "forward", "The layer's: forward, train.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Number of images.")
_STEPS = flags.DEFINE_integer("steps", 10, "Number of steps to record.")
_THREADS = flags.DEFINE_integer(
    "threads", len(os.sched_getaffinity(0)), "Threads of each operation."
)

_PRODUCTS = ("MatMul", "Conv")
_LAYER_NAMES = ("lambda_conv", "lambda_layer", "_lambda")
_WARM_UP_STEPS = 3
_MOST_KINDS = 12


class Operation(NamedTuple):
    """An operation of a graph and the time that it takes in a step.

    Attributes:
        name: with the names of the layers that it belongs to.
        kind: name of TensorFlow's kernel.
        calls: number in a step.
        seconds: of all calls in a step.
    """

    name: str
    kind: str
    calls: float
    seconds: float


def record(step: Callable[[], Any], steps: int) -> list[Operation]:
    """Records the operations of a step.

    Args:
        step: function of TensorFlow without arguments.
        steps: over how many steps to average.

    Returns:
        An `Operation` for each name and kind.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(steps):
                step()
        (path,) = pathlib.Path(folder).glob("**/*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    calls, picoseconds = collections.Counter(), collections.Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                calls[name] += 1
                picoseconds[name] += event.duration_ps
    # Others are calls of Python and of the executor: "NAME:KIND" are kernels.
    return [
        Operation(
            *name.rsplit(":", 1), calls[name] / steps, time_ / 1e12 / steps
        )
        for name, time_ in picoseconds.items()
        if name.count(":") == 1 and " " not in name
    ]


def group(
    operations: list[Operation], find_group: Callable[[Operation], str]
) -> list[list[Any]]:
    """Returns rows of name, calls, milliseconds and per cent, longest first."""
    groups = collections.defaultdict(list)
    for operation in operations:
        groups[find_group(operation)].append(operation)
    total = sum(operation.seconds for operation in operations)
    rows = [
        [
            name,
            round(sum(member.calls for member in members)),
            1000 * sum(member.seconds for member in members),
            100 * sum(member.seconds for member in members) / total,
        ]
        for name, members in groups.items()
    ]
    return sorted(rows, key=lambda row: -row[2])


def name_kind(operation: Operation) -> str:
    """Returns the kind of an operation without the library that computes it."""
    return operation.kind.removeprefix("_Mkl").removeprefix("Native")


def name_owner(operation: Operation) -> str:
    """Says whether a lambda layer has the operation."""
    # Keras calls a layer alone lambda_conv_3, networks c4_block2_lambda; in a
    # model, a number may follow.
    of_lambda = any(name in operation.name for name in _LAYER_NAMES)
    return "lambda layers" if of_lambda else "everything else"


def time_steps(step: Callable[[], Any], steps: int) -> list[float]:
    """Returns the seconds of each step, after some that do not count."""
    seconds = []
    for _ in range(_WARM_UP_STEPS + steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds[_WARM_UP_STEPS:]


def profile_layer(case: Case, steps: int) -> None:
    """Prints what a layer's step consists of."""
    step, _ = cases.build_keras_contestant("ours", case)
    product, _ = cases.build_matrix_product()
    limit = case.compute_limit(Measurement(time_steps(product, steps))).median
    median = statistics.median(time_steps(step, steps))
    operations = record(step, steps)
    rows = group(operations, name_kind)
    products = sum(
        operation.seconds
        for operation in operations
        if any(name in operation.kind for name in _PRODUCTS)
    )
    print(f"{case}: {1000 * median:.3g} ms per step\n")
    header = ["operations", "calls", "ms", "%"]
    print(reports.format_table(header, rows[:_MOST_KINDS]))
    print(
        f"\nProducts and convolutions take {1000 * products:.3g} ms. "
        f"The multiply-adds of the cheapest order would take "
        f"{1000 * limit:.3g} ms at the rate of a large matrix product."
    )


def profile_network(name: str, batch_size: int, steps: int) -> None:
    """Prints what a network's inference consists of."""
    step, _ = models.build_keras_step(
        name, "infer", batch_size, models.MODELS[name].image_size
    )
    median = statistics.median(time_steps(step, steps))
    operations = record(step, steps)
    owners = group(operations, name_owner)
    print(f"{name}, batch {batch_size}: {1000 * median:.3g} ms per step\n")
    print(reports.format_table(["", "calls", "ms", "%"], owners))
    for owner, *_ in owners:
        rows = group(
            [each for each in operations if name_owner(each) == owner],
            name_kind,
        )
        header = [owner, "calls", "ms", "%"]
        print(f"\n{reports.format_table(header, rows[:_MOST_KINDS])}")


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    if (_LAYER.value is None) == (_NETWORK.value is None):
        raise UserError(
            "One of --layer and --network says what to record. Received: "
            f"--layer={_LAYER.value} --network={_NETWORK.value}"
        )
    if _NETWORK.value:
        of_keras = [
            name
            for name, model in models.MODELS.items()
            if model.framework == "keras"
        ]
        check_names("network", [_NETWORK.value], of_keras)
    else:
        check_names("layer", [_LAYER.value], cases.SHAPES)
        check_names("scope", [_SCOPE.value], cases.SCOPES)
        check_names("mode", [_MODE.value], frameworks.MODES)
    if frameworks.keras_backend() != "tensorflow":
        raise UserError(
            "What is recorded are TensorFlow's operations. "
            f"Received: KERAS_BACKEND={frameworks.keras_backend()}"
        )
    frameworks.start("keras", _THREADS.value, concurrent_operations=1)
    if _NETWORK.value:
        profile_network(_NETWORK.value, _BATCH_SIZE.value, _STEPS.value)
        return
    case = Case(_LAYER.value, _SCOPE.value, _BATCH_SIZE.value, _MODE.value)
    profile_layer(case, _STEPS.value)


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
