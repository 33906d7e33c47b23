"""Trains, exports and uses a network that finds shapes and their outlines.

    python -m examples.detect_shapes

draws images of circles, triangles and rectangles that cover each other, and
runs programs of this project one after the other, each with its command line:
Mask R-CNN with a small LambdaResNet is trained on a thousand of them,
evaluated on a hundred others, exported, and looks at a few more. Nothing is
downloaded. Everything is written to a new folder in runs/. Takes five minutes
on two idle cores.

    python -m examples.detect_shapes --compare

trains this network and one of the same width that has convolutions in place of
the lambda layers, with three seeds each, and prints one table.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("examples.detect_shapes")

import json
import pathlib
import time
from collections.abc import Iterable

import numpy as np
from absl import flags
from PIL import Image

from examples.digits_demo import run_step
from trainers.detection import results
from trainers.program import refuse_arguments
from trainers.program import run_program

_COMPARE = flags.DEFINE_bool(
    "compare", False, "Whether to compare with a convolutional network."
)
_TRAIN_STEPS = flags.DEFINE_integer(
    "train_steps", 600, "Of 8 images each.", lower_bound=1
)

_NUM_TRAIN = 1000
_NUM_VALIDATION = 100
_NUM_SCENES = 6
_SCENE_SIZE = (256, 256)
_SEEDS = (0, 1, 2)
_LAYOUTS = {"lambda layers": "CCLL", "convolutions": "CCCC"}
# No drawing is in two of them.
_FIRST_SEEDS = {"train": 0, "validation": 100_000, "scenes": 200_000}


def write_drawings(folder: pathlib.Path) -> None:
    """Draws what to train and to evaluate on, as records in a folder."""
    from trainers.detection.records import make_example
    from trainers.detection.records import write_records
    from trainers.detection.shapes import draw_shapes

    for name, count in (("train", _NUM_TRAIN), ("validation", _NUM_VALIDATION)):
        first = _FIRST_SEEDS[name]
        examples = (
            make_example(draw_shapes(seed), seed)
            for seed in range(first, first + count)
        )
        write_records(examples, str(folder / name), num_shards=2)


def write_scenes(folder: pathlib.Path) -> list[str]:
    """Draws what the exported network is to look at.

    Returns:
        Paths of PNG files.
    """
    from trainers.detection.shapes import draw_shapes

    folder.mkdir()
    paths = []
    for number in range(_NUM_SCENES):
        seed = _FIRST_SEEDS["scenes"] + number
        path = folder / f"scene{number + 1}.png"
        Image.fromarray(draw_shapes(seed, *_SCENE_SIZE).image).save(path)
        paths.append(str(path))
    return paths


def train(
    records: pathlib.Path,
    model_dir: pathlib.Path,
    *,
    layout: str = _LAYOUTS["lambda layers"],
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Trains and evaluates.

    Args:
        records: what `write_drawings` wrote.
        model_dir: folder of the run.
        layout: of `build_lambda_resnet`.
        seed: of the run.

    Returns:
        What `trainers.detection.results.read_results` returns.
    """
    steps = _TRAIN_STEPS.value
    backbone = {"lambda_resnet": {"layout": layout}}
    overrides = {
        "task": {"model": {"backbone": backbone}},
        # Once, at the end.
        "trainer": {"validation_interval": steps},
    }
    run_step(
        "trainers.train_detector",
        "--recipe=rectangles",
        f"--train={records}/train-*",
        f"--validation={records}/validation-*",
        f"--train_steps={steps}",
        f"--seed={seed}",
        f"--params_override={json.dumps(overrides)}",
        f"--model_dir={model_dir}",
    )
    return results.read_results(model_dir)


def compare(records: pathlib.Path, folder: pathlib.Path) -> str:
    """Trains both networks with all seeds.

    Args:
        records: what `write_drawings` wrote.
        folder: where the runs go.

    Returns:
        A table in Markdown: means over seeds, and the least and the largest.
    """
    lines = [
        "| average precision, per cent | box AP | box AP50 | mask AP "
        "| mask AP50 | seconds |",
        "|---|---|---|---|---|---|",
    ]
    rows = {layout: [] for layout in _LAYOUTS.values()}
    # In turn, so that what else the machine does meets both.
    for seed in _SEEDS:
        for layout in rows:
            start = time.monotonic()
            model_dir = folder / f"{layout}-{seed}"
            achieved = train(records, model_dir, layout=layout, seed=seed)
            averages = [
                100 * achieved[task][metric]
                for task in ("box", "mask")
                for metric in ("AP", "AP50")
            ]
            rows[layout].append([*averages, time.monotonic() - start])
    for name, layout in _LAYOUTS.items():
        cells = [_format(values) for values in np.transpose(rows[layout])]
        lines.append(f"| {name}, {layout} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format(values: Iterable[float]) -> str:
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def run_demo(records: pathlib.Path, folder: pathlib.Path) -> str:
    """Trains, exports and detects.

    Args:
        records: what `write_drawings` wrote.
        folder: where the results go.

    Returns:
        What was achieved, and where everything is.
    """
    model_dir = folder / "model"
    achieved = train(records, model_dir)
    run_step("export.export_detector", f"--model_dir={model_dir}")
    scenes = write_scenes(folder / "scenes")
    run_step(
        "export.detect",
        *scenes,
        f"--model={model_dir / 'export'}",
        f"--output_dir={folder / 'found'}",
    )
    return f"""
Average precision on {_NUM_VALIDATION} drawings that were not trained on:
  boxes {achieved["box"]["AP"]:.1%}, masks {achieved["mask"]["AP"]:.1%}
  boxes {achieved["box"]["AP50"]:.1%}, masks {achieved["mask"]["AP50"]:.1%} \
where an overlap of half is enough

Truth and found: {model_dir / "detections.png"}
Found in scenes: {folder / "found"}
Exported:        {model_dir / "export"}
"""


def main(argv: list[str]) -> None:
    from trainers.detection.installation import check_installation

    refuse_arguments(argv)
    check_installation()
    start = time.monotonic()
    folder = pathlib.Path("runs", time.strftime("shapes-%Y%m%d-%H%M%S"))
    records = folder / "records"
    records.mkdir(parents=True)
    write_drawings(records)
    print(f"{_NUM_TRAIN + _NUM_VALIDATION} drawings in {records}")
    run = compare if _COMPARE.value else run_demo
    print(run(records, folder))
    print(f"All this took {time.monotonic() - start:.0f} seconds.")


def run() -> None:
    run_program(main)
