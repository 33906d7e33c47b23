r"""Times whole networks beside others, and beside the paper's ratios.

    python -m benchmarks.networks --output=runs/benchmarks

prints images per second, parameters and memory, then how the hybrids of lambda
layers and convolutions compare with what the paper reports, and writes
networks.csv, in the columns of timm's benchmarks, and networks.png. It takes
an hour or so on two cores; for a first look:

    python -m benchmarks.networks --models=resnet50_cccc,resnet50_ccll \
        --image_size=64 --output=runs/benchmarks

Run it on a machine that does nothing else. Models of timm run in PyTorch,
which the extra `peers` of this project installs; choose others without it. Ours
run on the backend that KERAS_BACKEND names.
"""

import contextlib
import os
import pathlib
from typing import Any

from absl import flags

from benchmarks import models
from benchmarks import reports
from benchmarks.arguments import check_names
from benchmarks.arguments import check_peers
from benchmarks.workers import MIB
from benchmarks.workers import Launcher
from benchmarks.workers import Measurement
from benchmarks.workers import Setting
from benchmarks.workers import measure
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_MODELS = flags.DEFINE_list(
    "models",
    [name for name in models.MODELS if not name.endswith("_compiled")],
    f"What is timed, some of {','.join(models.MODELS)}.",
)
_MODES = flags.DEFINE_list(
    "modes", list(models.MODES), "What is timed: infer, train."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Number of images.")
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 0, "Height and width in pixels; 0 for each model's own."
)
_SECONDS = flags.DEFINE_float(
    "seconds",
    20.0,
    "Time for the timed steps of a model; there are at least 3.",
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 25, "Largest number of timed steps of a model."
)
_THREADS = flags.DEFINE_integer(
    "threads", len(os.sched_getaffinity(0)), "Threads of each model."
)
_MEMORY = flags.DEFINE_float(
    "memory", 16.0, "Memory that a model may allocate, in GiB."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of networks.csv and networks.png. Required."
)

# Examples per second in inference on 8 TPUv3 cores: Bello, 2021, Table 12.
_PAPER_THROUGHPUTS = {
    "resnet50_cccc": 7240,
    "resnet50_ccll": 4980,
    "resnet50_ccll_free": None,
    "resnet50_clll": 2200,
    "resnet50_llll": 1160,
    "resnet50_llll_free": None,
}


def measure_networks(
    names: list[str],
    modes: list[str],
    setting: Setting,
    *,
    batch_size: int,
    image_size: int,
    output: pathlib.Path,
) -> list[dict[str, Any]]:
    """Measures models in one mode after the other, and writes the results.

    Args:
        names: some of `models.MODELS`.
        modes: some of `models.MODES`.
        setting: how long and on what.
        batch_size: number of images per step.
        image_size: height and width in pixels; 0 for each model's own.
        output: folder of networks.csv and networks.png, which is made if need
            be.

    Returns:
        The rows of networks.csv, one per model.
    """
    output.mkdir(parents=True, exist_ok=True)
    sizes = {
        name: image_size or models.MODELS[name].image_size for name in names
    }
    rows = {name: {"model": name} for name in names}
    with contextlib.ExitStack() as stack:
        launchers = {
            framework: stack.enter_context(Launcher(framework, setting))
            for framework in models.find_frameworks(names)
        }
        for mode in modes:
            print(f"Timing {mode}", flush=True)
            tasks = {
                name: models.make_task(name, mode, batch_size, sizes[name])
                for name in names
            }
            found = measure(tasks, launchers, setting)
            for name, measurement in found.items():
                rows[name] |= make_columns(
                    mode, measurement, batch_size, sizes[name]
                )
            reports.write_csv(output / "networks.csv", list(rows.values()))
    draw_throughputs(list(rows.values()), output / "networks.png")
    return list(rows.values())


def make_columns(
    mode: str, measurement: Measurement, batch_size: int, image_size: int
) -> dict[str, Any]:
    """Returns one mode's columns of a row.

    Those that timm's benchmarks have, in their units: milliseconds, 1e9
    multiply-adds and 1e6 parameters. Beside them the peak memory in MiB and
    why there are no numbers.
    """
    known = bool(measurement.seconds)
    seconds = measurement.median if known else None
    gmacs, parameters = (
        measurement.facts.get(key) for key in ("gmacs", "parameters")
    )
    return {
        f"{mode}_samples_per_sec": batch_size / seconds if known else None,
        f"{mode}_step_time": 1000 * seconds if known else None,
        f"{mode}_batch_size": batch_size,
        f"{mode}_img_size": image_size,
        f"{mode}_gmacs": gmacs,
        f"{mode}_peak_mib": measurement.peak / MIB if known else None,
        f"{mode}_note": measurement.error,
        "param_count": parameters and parameters / 1e6,
    }


def compare_with_paper(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """Returns the throughputs of hybrids over that of the convolutional one.

    Returns:
        A list per hybrid: its name, the paper's ratio, ours in inference and in
        training; `None` where it was not measured. The "free" ones have layers
        that do nothing for lambda layers: what those could reach.
    """
    by_name = {row["model"]: row for row in rows}
    base = next(iter(_PAPER_THROUGHPUTS))
    return [
        [
            name,
            paper and paper / _PAPER_THROUGHPUTS[base],
            *(
                _divide(by_name, name, base, f"{mode}_samples_per_sec")
                for mode in models.MODES
            ),
        ]
        for name, paper in _PAPER_THROUGHPUTS.items()
        if name in by_name
    ]


def _divide(by_name, name, base, column):
    above = by_name[name].get(column)
    below = by_name.get(base, {}).get(column)
    return above / below if above and below else None


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Returns the table of all models."""
    columns = {
        "model": "model",
        "param_count": "M param.",
        "infer_img_size": "pixels",
        "infer_gmacs": "GMACs",
        "infer_samples_per_sec": "infer/s",
        "train_samples_per_sec": "train/s",
        "infer_peak_mib": "infer MiB",
        "train_peak_mib": "train MiB",
        "infer_note": "",
        "train_note": "",
    }
    columns = {key: name for key, name in columns.items() if key in rows[0]}
    table = [[row[key] for key in columns] for row in rows]
    return reports.format_table(list(columns.values()), table)


def draw_throughputs(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws images per second over parameters, a point per model."""
    from matplotlib.figure import Figure

    modes = [m for m in models.MODES if f"{m}_step_time" in rows[0]]
    figure = Figure(figsize=(6 * len(modes), 5), layout="constrained")
    panels = figure.subplots(1, len(modes), squeeze=False)[0]
    for mode, axes in zip(modes, panels, strict=True):
        for row in rows:
            throughput = row[f"{mode}_samples_per_sec"]
            if throughput is not None:
                point = (row["param_count"], throughput)
                axes.plot(*point, "o")
                axes.annotate(
                    row["model"],
                    point,
                    xytext=(4, 4),
                    textcoords="offset points",
                    fontsize=8,
                )
        axes.set_title({"infer": "inference", "train": "training"}[mode])
        axes.set_xlabel("millions of parameters")
        axes.set_ylabel("images per second")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.margins(x=0.4, y=0.1)
    reports.write_figure(figure, path)


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    if not _OUTPUT.value:
        raise UserError("--output is missing: where the results go.")
    names = check_names("models", _MODELS.value, models.MODELS)
    modes = check_names("modes", _MODES.value, models.MODES)
    check_peers("models", models.find_frameworks(names))
    setting = Setting(
        threads=_THREADS.value,
        memory_limit=round(_MEMORY.value * 2**30),
        seconds=_SECONDS.value,
        max_rounds=_ROUNDS.value,
    )
    rows = measure_networks(
        names,
        modes,
        setting,
        batch_size=_BATCH_SIZE.value,
        image_size=_IMAGE_SIZE.value,
        output=pathlib.Path(_OUTPUT.value),
    )
    print(format_rows(rows))
    comparison = compare_with_paper(rows)
    if comparison:
        header = ["images/s, CCCC = 1", "paper, infer", "infer", "train"]
        print(f"\n{reports.format_table(header, comparison)}")


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
