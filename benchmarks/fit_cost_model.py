r"""Fits the constants of the cost model to the machine that this runs on.

    python -m benchmarks.fit_cost_model --output=runs/timings.csv

times every plan of some position lambdas, forward and gradient, on TensorFlow,
writes the timings, and prints the constants that explain them best: those of a
`lambda_keras.contraction.cost_model.Machine`. Beside them stand those that the
library has, and the regret of both: how many times as long as the quickest
plan the chosen one takes; and how much longer it would take without each of
the orders and kinds of blocks. It takes an hour on two cores; for a first look,
some minutes:

    python -m benchmarks.fit_cost_model --output=runs/timings.csv --quick

Run it on a machine that does nothing else. Timings need not be taken twice:

    python -m benchmarks.fit_cost_model --timings=runs/timings.csv
"""

import csv
import itertools
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from absl import flags
from tqdm import tqdm

from benchmarks import cases
from benchmarks import reports
from lambda_keras.contraction import cost_model
from lambda_keras.contraction import orders
from lambda_keras.contraction.cost_model import Blocks
from lambda_keras.contraction.cost_model import Cost
from lambda_keras.contraction.cost_model import Machine
from lambda_keras.contraction.cost_model import Plan
from lambda_keras.contraction.cost_model import Sizes
from lambda_keras.contraction.offsets import Geometry
from lambda_keras.contraction.offsets import Strides
from trainers.program import UserError
from trainers.program import run_program

_OUTPUT = flags.DEFINE_string("output", None, "Where the timings go, a .csv.")
_TIMINGS = flags.DEFINE_string(
    "timings", None, "Timings of a run before, instead of timing."
)
_QUICK = flags.DEFINE_bool("quick", False, "Whether to time few small cases.")
_ROUNDS = flags.DEFINE_integer(
    "rounds", 9, "Number of timed calls of a plan.", lower_bound=1
)

MODES = ("forward", "gradient")
# From less than any processor has to more.
_CACHES = [2**power for power in range(18, 29)]


class Layer(NamedTuple):
    """Position lambdas of square maps, with one lambda per position.

    Attributes:
        size: positions on either side of the map.
        scope: offsets on either axis.
        batch: number of images.
        shared: queries that share a lambda.
        key_dim: depth of the keys.
        intra_depth: values per position that are summed into a lambda.
        value_dim: depth of the values.
    """

    size: int
    scope: int
    batch: int
    shared: int = cases.NUM_HEADS
    key_dim: int = cases.KEY_DIM
    intra_depth: int = 1
    value_dim: int = 64

    @property
    def geometry(self) -> Geometry:
        grid = (self.size, self.size)
        return Geometry(grid, grid, (self.scope // 2,) * 2, Strides())

    @property
    def sizes(self) -> Sizes:
        return Sizes(
            batch=self.batch,
            geometry=self.geometry,
            scopes=(self.scope, self.scope),
            groups=1,
            shared=self.shared,
            key_dim=self.key_dim,
            intra_depth=self.intra_depth,
            value_dim=self.value_dim,
        )

    def list_shapes(self) -> list[tuple[int, ...]]:
        """Returns the shapes of queries, values and table."""
        grid = (self.batch, self.size, self.size, 1)
        depths = (self.intra_depth, self.key_dim)
        return [
            (*grid, self.shared, self.key_dim),
            (*grid, self.intra_depth, self.value_dim),
            (self.scope, self.scope, 1, *depths),
        ]


class Timing(NamedTuple):
    """How long a plan took.

    Attributes:
        layer: a `Layer`.
        mode: one of `MODES`.
        plan: a `Plan` whose `blocks` and `gradient_blocks` are the same.
        seconds: median of the calls.
    """

    layer: Layer
    mode: str
    plan: Plan
    seconds: float

    @property
    def cost(self) -> Cost:
        estimate = {
            "forward": cost_model.estimate_cost,
            "gradient": cost_model.estimate_gradient_cost,
        }[self.mode]
        return estimate(self.plan, self.layer.sizes)


class Fit(NamedTuple):
    """What explains timings.

    Attributes:
        machine: a `Machine`.
        seconds_per_multiply_add: seconds of a unit of the machine's costs.
        overhead: seconds that any call takes besides.
        error: median of how far times lie from it, as a share.
    """

    machine: Machine
    seconds_per_multiply_add: float
    overhead: float
    error: float


def list_layers(quick: bool) -> list[Layer]:
    """Returns what is timed, the published cases and some other depths."""
    shapes = dict(cases.SHAPES)
    if quick:
        shapes = {name: shapes[name] for name in ("14x14x256", "28x28x128")}
    layers = [
        Layer(
            size,
            scope or 2 * size - 1,
            batch,
            value_dim=channels // cases.NUM_HEADS,
        )
        for (size, channels), scope, batch in itertools.product(
            shapes.values(), cases.SCOPES.values(), (1, 8)
        )
    ]
    # At 64 pixels a batch of 8 takes seconds per call and gigabytes.
    layers = [layer for layer in layers if layer.size * layer.batch < 500]
    if quick:
        return layers
    others = [
        Layer(14, 27, 8, shared=32, value_dim=16),
        Layer(14, 7, 8, intra_depth=4),
        Layer(28, 55, 1, shared=32, value_dim=16),
        Layer(28, 55, 8, key_dim=4),
        Layer(28, 23, 8, intra_depth=4, value_dim=32),
    ]
    return layers + others


def list_plans(layer: Layer, mode: str) -> list[Plan]:
    """Returns the plans to time, without those that need too much memory."""
    plans = [
        plan._replace(gradient_blocks=plan.blocks)
        for plan in cost_model.list_plans(layer.sizes)
        if mode == "forward" or plan.order == "queries_first"
    ]
    return [
        plan
        for plan in plans
        if Timing(layer, mode, plan, 0).cost.peak_bytes
        <= cost_model.LARGEST_PEAK
    ]


def prepare(layer: Layer, mode: str, plan: Plan) -> Callable[[], None]:
    """Compiles a plan, and returns what runs it on random numbers."""
    import tensorflow as tf

    normal = np.random.default_rng(0).normal
    *tensors, upstream = (
        tf.constant(normal(size=shape), "float32")
        for shape in [
            *layer.list_shapes(),
            (layer.batch, layer.size**2, 1, layer.shared, layer.value_dim),
        ]
    )

    def contract(*tensors):
        return orders.contract_by_plan(*tensors, layer.geometry, plan)

    # TensorFlow leaves out the outputs, for which nothing asks.
    def differentiate(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs = contract(*tensors)
        return tape.gradient(outputs, tensors, upstream)

    run = tf.function({"forward": contract, "gradient": differentiate}[mode])
    run = run.get_concrete_function(*tensors)
    return lambda: run(*tensors)


def time_plans(layer: Layer, mode: str, rounds: int) -> list[Timing]:
    """Times all plans in turn, so that what disturbs one disturbs all."""
    plans = list_plans(layer, mode)
    runs = [prepare(layer, mode, plan) for plan in plans]
    seconds = [[] for _ in plans]
    for _ in range(1 + rounds):
        for run, times in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    # The first calls set things up.
    return [
        Timing(layer, mode, plan, statistics.median(times[1:]))
        for plan, times in zip(plans, seconds, strict=True)
    ]


def write_timings(path: os.PathLike, timings: Iterable[Timing]) -> None:
    rows = [
        {
            **timing.layer._asdict(),
            "mode": timing.mode,
            "order": timing.plan.order,
            "blocks": timing.plan.blocks.kind if timing.plan.blocks else "",
            "rows": timing.plan.blocks.rows if timing.plan.blocks else "",
            "seconds": timing.seconds,
        }
        for timing in timings
    ]
    reports.write_csv(pathlib.Path(path), rows)


def read_timings(path: os.PathLike) -> list[Timing]:
    """Reads what `write_timings` wrote.

    Raises:
        UserError: If it is not such a file.
    """
    try:
        with open(path, newline="") as file:
            return [_parse(row) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            "--timings must be a file that --output wrote. "
            f"Received: {path} ({error})"
        ) from error


def _parse(row):
    layer = Layer(*(int(row[name]) for name in Layer._fields))
    blocks = None
    if row["blocks"]:
        blocks = Blocks(row["blocks"], int(row["rows"]))
    plan = Plan(row["order"], blocks, blocks)
    return Timing(layer, row["mode"], plan, float(row["seconds"]))


def fit_machine(costs: list[Cost], seconds: list[float]) -> Fit:
    """Finds the constants that explain times best.

    Args:
        costs: what the cost model counts.
        seconds: how long each took.

    Returns:
        A `Fit`, of the shares by which times lie off: without weights the
        longest would be all that counts. Single ones that are far off, when
        the machine did something else, count less.
    """
    from scipy.optimize import least_squares

    library = cost_model.AVX512
    start = [
        1e-11,
        min(seconds) / 2,
        library.multiply_adds_per_byte,
        library.multiply_adds_per_block,
        library.share_beyond_cache,
    ]
    logs = np.log(seconds)

    def find_errors(constants, cache):
        fit = _make_fit(constants, cache)
        return np.log([predict(fit, cost) for cost in costs]) - logs

    # Logarithms, so that no constant becomes negative. The cache is tried
    # out: times do not depend on it smoothly.
    results = {
        cache: least_squares(
            find_errors,
            np.log(start),
            loss="soft_l1",
            f_scale=0.2,
            args=(cache,),
        )
        for cache in _CACHES
    }
    cache = min(results, key=lambda cache: results[cache].cost)
    constants, errors = results[cache].x, results[cache].fun
    fit = _make_fit(constants, cache)
    return fit._replace(error=float(np.median(np.abs(errors))))


def _make_fit(constants, cache):
    seconds, overhead, per_byte, per_block, share = np.exp(constants).tolist()
    return Fit(Machine(per_byte, per_block, cache, share), seconds, overhead, 0)


def predict(fit: Fit, cost: Cost) -> float:
    """Returns the seconds that something of a cost should take."""
    return fit.overhead + fit.seconds_per_multiply_add * cost.total(fit.machine)


def find_regrets(timings: list[Timing], machine: Machine) -> list[float]:
    """Returns what each case takes by the plan that a machine chooses.

    Args:
        timings: of all plans of some layers and modes.
        machine: whose constants to choose by.

    Returns:
        The time of the chosen plan over that of the quickest, by case.
    """
    regrets = []
    for group in _group_by_case(timings):
        chosen = min(group, key=lambda timing: timing.cost.total(machine))
        quickest = min(timing.seconds for timing in group)
        regrets.append(chosen.seconds / quickest)
    return regrets


def find_losses(timings: list[Timing], kind: str) -> list[float]:
    """Returns what each case would take without an order or kind of blocks.

    Args:
        timings: of all plans of some layers and modes.
        kind: an order or a kind of blocks.

    Returns:
        The time of the quickest other plan over that of the quickest, by case,
        without the cases that have no other.
    """
    losses = []
    for group in _group_by_case(timings):
        others = [timing for timing in group if kind not in _name(timing.plan)]
        if others:
            quickest = min(timing.seconds for timing in group)
            losses.append(min(t.seconds for t in others) / quickest)
    return losses


def _name(plan):
    return (plan.order, plan.blocks.kind if plan.blocks else None)


def _group_by_case(timings):
    groups = {}
    for timing in timings:
        groups.setdefault((timing.layer, timing.mode), []).append(timing)
    return list(groups.values())


def format_losses(timings: list[Timing]) -> str:
    """Returns what each order and kind of blocks is good for."""
    table = []
    for kind in ("convolution", "lambdas_first", "query_rows", "offset_rows"):
        losses = find_losses(timings, kind)
        count = sum(loss > 1 for loss in losses)
        mean = reports.geometric_mean(losses)
        table.append([kind, count, len(losses), mean, max(losses)])
    header = ["without", "quickest in", "of", "mean loss", "worst"]
    return reports.format_table(header, table)


def format_fit(timings: list[Timing]) -> str:
    """Fits timings, and returns the report that the program prints."""
    fit = fit_machine(
        [timing.cost for timing in timings],
        [timing.seconds for timing in timings],
    )
    machines = {"library": cost_model.AVX512, "fitted": fit.machine}
    table = []
    for name, machine in machines.items():
        regrets = find_regrets(timings, machine)
        row = [name, *map(float, machine), reports.geometric_mean(regrets)]
        table.append([*row, max(regrets)])
    header = ["", *Machine._fields, "mean regret", "worst"]
    count = len(regrets)
    return (
        f"{reports.format_table(header, table)}\n\n"
        f"{len(timings)} times of {count} cases. The fitted constants are "
        f"{fit.error:.0%} off in the median, with "
        f"{fit.overhead * 1e3:.2f} ms of any call besides."
    )


def measure(layers: list[Layer], rounds: int, path: str) -> list[Timing]:
    """Times all plans of layers; the file is written after each layer."""
    timings = []
    for layer in tqdm(layers, "layers"):
        for mode in MODES:
            timings += time_plans(layer, mode, rounds)
        write_timings(path, timings)
    return timings


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"Flags begin with --. Received: {argv[1]}")
    if (_OUTPUT.value is None) == (_TIMINGS.value is None):
        raise UserError(
            "Either --output says where new timings go, or --timings where "
            "those of a run before are."
        )
    if _TIMINGS.value:
        timings = read_timings(_TIMINGS.value)
    else:
        pathlib.Path(_OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        layers = list_layers(_QUICK.value)
        timings = measure(layers, _ROUNDS.value, _OUTPUT.value)
    print(f"{format_fit(timings)}\n\n{format_losses(timings)}")


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
