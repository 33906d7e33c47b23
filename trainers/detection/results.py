"""What a detector achieves, as COCO measures it, beside the paper's."""

import os
from collections.abc import Mapping

from trainers import run_folder
from trainers.files import make_path

# Average precision: over overlaps from 0.5 to 0.95, at 0.5, at 0.75, and of
# objects of fewer than 32 x 32, fewer than 96 x 96 and more pixels.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_TASKS = {"box": "", "mask": "mask_"}

# Bello, 2021, Table 6, per cent: boxes, then masks; it has no AP50 nor AP75.
PAPER_RESULTS = {
    "resnet101": ((48.2, 29.9, 50.9, 64.9), (42.6, 24.2, 45.6, 60.0)),
    "resnet101_se": ((48.5, 29.9, 51.5, 65.3), (42.8, 24.0, 46.0, 60.2)),
    "lambda_resnet101": ((49.4, 31.7, 52.2, 65.6), (43.5, 25.9, 46.5, 60.8)),
    "resnet152": ((48.9, 29.9, 51.8, 66.0), (43.2, 24.2, 46.1, 61.2)),
    "resnet152_se": ((49.4, 30.0, 52.3, 66.7), (43.5, 24.6, 46.8, 61.8)),
    "lambda_resnet152": ((50.0, 31.8, 53.4, 67.0), (43.9, 25.5, 47.3, 62.0)),
}


def write_results(model_dir: os.PathLike, logs: Mapping, step: int) -> None:
    """Writes results.json.

    Args:
        model_dir: folder of the run.
        logs: scalars by the names that tf-models-official's evaluation gives
            them, such as `"mask_AP50"`.
        step: number of training steps before the evaluation.
    """
    results = {"step": step}
    for task, prefix in _TASKS.items():
        values = {name: float(logs[f"{prefix}{name}"]) for name in METRICS}
        # COCO's sign that there is no object of that size.
        results[task] = {
            name: None if value < 0 else value for name, value in values.items()
        }
    run_folder.write_json(
        make_path(model_dir) / run_folder.RESULTS_FILE, results
    )


def read_results(model_dir: os.PathLike) -> dict:
    """Reads what `write_results` wrote.

    Returns:
        `"step"`, `"box"` and `"mask"`: the last two are dictionaries of
        `METRICS`, from 0 to 1, or `None` where there was nothing to find.

    Raises:
        UserError: If there is none, or it is damaged.
    """
    return run_folder.read_json(make_path(model_dir) / run_folder.RESULTS_FILE)


def describe_results(results: Mapping, recipe: str) -> str:
    """Returns a table, per cent.

    Args:
        results: what `read_results` returns.
        recipe: key of `RECIPES`. Those of the paper have its rows below.
    """
    names = "".join(f"{name:>7}" for name in METRICS)
    lines = [
        f"{'':20}{'boxes':>7}{'':35}{'masks':>7}",
        f"{'per cent':20}{names}{names}",
        _join(
            f"step {results['step']:,}",
            [
                [_format(results[task][key]) for key in METRICS]
                for task in _TASKS
            ],
        ),
    ]
    if recipe in PAPER_RESULTS:
        lines.append("Bello, 2021, Table 6, of COCO, not reproduced here:")
        for name, tasks in PAPER_RESULTS.items():
            rows = [[first, "", "", *others] for first, *others in tasks]
            lines.append(_join(name, rows))
    return "\n".join(lines)


def _format(value):
    return "-" if value is None else f"{100 * value:.1f}"


def _join(name, rows):
    cells = "".join(f"{cell:>7}" for row in rows for cell in row)
    return f"{name:20}{cells}"
