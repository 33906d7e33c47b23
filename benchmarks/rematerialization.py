r"""Measures the gradient of ours beside those that Keras makes by itself.

    python -m benchmarks.rematerialization

prints, for training steps of three layers, the time and the memory with the
gradient that the library writes out (`ours`), with `keras.remat`, which
computes all of the forward pass once more, and with neither (`kept`). Takes
some minutes.
"""

import os

import keras
from absl import flags

from benchmarks import cases
from benchmarks import reports
from benchmarks.cases import Case
from benchmarks.workers import MIB
from benchmarks.workers import Launcher
from benchmarks.workers import Setting
from benchmarks.workers import Task
from benchmarks.workers import measure
from lambda_keras.contraction import offset_rows
from lambda_keras.contraction import queries_first
from lambda_keras.contraction import query_rows
from lambda_keras.contraction.offsets import fit_offsets
from trainers.program import UserError
from trainers.program import run_program

_ROUNDS = flags.DEFINE_integer(
    "rounds", 15, "Number of timed steps of each.", lower_bound=3
)

CASES = (
    Case("28x28x128", "global", 8, "train"),
    Case("14x14x256", "23", 8, "train"),
    Case("64x64x256", "global", 1, "train"),
)
CONTESTANTS = ("ours", "remat", "kept")


def contract_without_gradient(queries, values, table, geometry, plan):
    """Does what `queries_first.contract` does, without its gradient."""
    for axis in range(1, len(geometry.query_grid)):
        table = fit_offsets(table, axis, geometry)
    kind, rows = plan.blocks
    module = {"query_rows": query_rows, "offset_rows": offset_rows}[kind]
    return module.contract(queries, values, table, geometry, rows)


def contract_with_remat(queries, values, table, geometry, plan):
    """Does the same, computed once more for the gradient."""

    def contract(queries, values, table):
        return contract_without_gradient(queries, values, table, geometry, plan)

    return keras.remat(contract)(queries, values, table)


def build(name: str, case: Case):
    """Builds a layer with one of the gradients, in a process of its own."""
    if name != "ours":
        queries_first.contract = {
            "remat": contract_with_remat,
            "kept": contract_without_gradient,
        }[name]
    return cases.build_keras_contestant("ours", case)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"Flags begin with --. Received: {argv[1]}")
    setting = Setting(
        threads=len(os.sched_getaffinity(0)),
        seconds=float("inf"),
        max_rounds=_ROUNDS.value,
    )
    with Launcher("keras", setting) as launcher:
        for case in CASES:
            tasks = {
                name: Task("keras", build, (name, case)) for name in CONTESTANTS
            }
            found = measure(tasks, {"keras": launcher}, setting)
            print(f"{case}\n{format_case(found)}\n")


def format_case(found) -> str:
    """Returns the table of a case."""
    rows = []
    for name, measurement in found.items():
        if not measurement.seconds:
            rows.append([name, *[None] * 4, measurement.error])
            continue
        rows.append(
            [
                name,
                1000 * measurement.median,
                1000 * min(measurement.seconds),
                measurement.median / found["ours"].median,
                measurement.peak / MIB,
                "",
            ]
        )
    return reports.format_table(
        ["gradient", "median ms", "min ms", "ours = 1", "MiB", "note"], rows
    )


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
