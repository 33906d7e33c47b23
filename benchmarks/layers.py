r"""Times whole lambda layers beside those of others and beside arithmetic.

    python -m benchmarks.layers --output=runs/benchmarks

prints a table for each case, then what others take beside ours and what ours
take beside the time of the multiply-adds alone (at the rate of a large matrix
product, measured in turn with the rest), and writes layers.csv and
layers.png. Everything takes about two hours on two cores; for a first look:

    python -m benchmarks.layers --cases=14x14x256 --scopes=23 --batch_sizes=8 \
        --output=runs/benchmarks

Run it on a machine that does nothing else: beside one busy process PyTorch,
whose threads wait for each other, takes ten times as long.

Others run in PyTorch, which the extra `peers` of this project installs;
without it, choose among ours: --contestants=ours,keras_conv,keras_attention.
Our layers run on the backend that KERAS_BACKEND names.
"""

import contextlib
import itertools
import os
import pathlib
from typing import Any

from absl import flags
from tqdm import tqdm

from benchmarks import cases
from benchmarks import frameworks
from benchmarks import reports
from benchmarks.arguments import check_names
from benchmarks.arguments import check_peers
from benchmarks.arguments import parse_numbers
from benchmarks.cases import Case
from benchmarks.workers import MIB
from benchmarks.workers import Launcher
from benchmarks.workers import Measurement
from benchmarks.workers import Setting
from benchmarks.workers import measure
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_CASES = flags.DEFINE_list(
    "cases",
    list(cases.SHAPES),
    "Shapes of the inputs, HEIGHTxWIDTHxCHANNELS.",
)
_SCOPES = flags.DEFINE_list("scopes", list(cases.SCOPES), "Scopes, in pixels.")
_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", ["1", "8"], "Numbers of images."
)
_MODES = flags.DEFINE_list(
    "modes", list(frameworks.MODES), "What is timed: forward, train."
)
_CONTESTANTS = flags.DEFINE_list(
    "contestants", list(cases.CONTESTANTS), "What takes part."
)
_SECONDS = flags.DEFINE_float(
    "seconds",
    3.0,
    "Time for the timed calls of a contestant in a case; there are at least 3.",
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 25, "Largest number of timed calls of a contestant in a case."
)
_THREADS = flags.DEFINE_integer(
    "threads", len(os.sched_getaffinity(0)), "Threads of each contestant."
)
_MEMORY = flags.DEFINE_float(
    "memory", 16.0, "Memory that a contestant may allocate, in GiB."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of layers.csv and layers.png. Required."
)


def make_row(case: Case, name: str, measurement: Measurement) -> dict[str, Any]:
    """Returns a row of layers.csv."""
    seconds = measurement.seconds
    return {
        **case._asdict(),
        "contestant": name,
        "median_ms": 1000 * measurement.median if seconds else None,
        "min_ms": 1000 * min(seconds) if seconds else None,
        "rounds": len(seconds),
        "peak_mib": measurement.peak / MIB if measurement.peak else None,
        "library_mib": measurement.library / MIB if measurement.peak else None,
        "parameters": measurement.facts.get("parameters"),
        "note": measurement.error,
    }


def measure_case(
    case: Case,
    contestants: list[str],
    launchers: dict[str, Launcher],
    setting: Setting,
) -> list[dict[str, Any]]:
    """Returns the rows of a case, one a contestant, the limit first."""
    tasks = {
        cases.LIMIT: cases.MATRIX_PRODUCT,
        **cases.make_tasks(case, contestants),
    }
    measurements = measure(tasks, launchers, setting)
    measurements[cases.LIMIT] = case.compute_limit(measurements[cases.LIMIT])
    return [make_row(case, *item) for item in measurements.items()]


def format_case(case: Case, rows: list[dict[str, Any]]) -> str:
    """Returns the table of a case."""
    ours = [row["median_ms"] for row in rows if row["contestant"] == "ours"]
    table = []
    for row in rows:
        median = row["median_ms"]
        known = median and ours and ours[0]
        table.append(
            [
                row["contestant"],
                median,
                row["min_ms"],
                median / ours[0] if known else None,
                row["peak_mib"],
                row["rounds"],
                row["note"][:60],
            ]
        )
    header = ["", "median ms", "min ms", "ours = 1", "MiB", "rounds", "note"]
    return f"{case}\n{reports.format_table(header, table)}\n"


def measure_layers(
    chosen: list[Case],
    contestants: list[str],
    setting: Setting,
    output: pathlib.Path,
) -> list[dict[str, Any]]:
    """Measures contestants case by case, and prints and writes the results.

    Args:
        chosen: cases in the order in which they are measured.
        contestants: some of `cases.CONTESTANTS`.
        setting: how long and on what.
        output: folder of layers.csv and layers.png, which is made if need be.

    Returns:
        The rows of layers.csv, which is written after every case.
    """
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    with contextlib.ExitStack() as stack:
        launchers = {
            framework: stack.enter_context(Launcher(framework, setting))
            for framework in cases.find_frameworks(contestants)
        }
        for case in tqdm(chosen, "cases"):
            found = measure_case(case, contestants, launchers, setting)
            tqdm.write(format_case(case, found))
            rows += found
            reports.write_csv(output / "layers.csv", rows)
    print(f"{reports.summarize(rows)}\n\n{reports.format_limits(rows)}")
    reports.draw_ratios(rows, output / "layers.png")
    return rows


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    if not _OUTPUT.value:
        raise UserError("--output is missing: where the results go.")
    chosen = list_cases(
        check_names("cases", _CASES.value, cases.SHAPES),
        check_names("scopes", _SCOPES.value, cases.SCOPES),
        parse_numbers("batch_sizes", _BATCH_SIZES.value),
        check_names("modes", _MODES.value, frameworks.MODES),
    )
    contestants = check_names(
        "contestants", _CONTESTANTS.value, cases.CONTESTANTS
    )
    check_peers("contestants", cases.find_frameworks(contestants))
    setting = Setting(
        threads=_THREADS.value,
        memory_limit=round(_MEMORY.value * 2**30),
        seconds=_SECONDS.value,
        max_rounds=_ROUNDS.value,
    )
    measure_layers(chosen, contestants, setting, pathlib.Path(_OUTPUT.value))


def list_cases(
    shapes: list[str],
    scopes: list[str],
    batch_sizes: list[int],
    modes: list[str],
) -> list[Case]:
    """Returns every combination, the modes of a layer one after the other."""
    return [
        Case(*names)
        for names in itertools.product(shapes, scopes, batch_sizes, modes)
    ]


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
