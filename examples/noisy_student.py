r"""Trains on few labelled images, and on what the result says of many others.

    python -m examples.noisy_student

gives a network four scanned digits of each kind, and has it label the others
that there are to train on. A second network is trained on both, labels them
again, and a third is trained: Noisy Student (Xie et al., 2020), with the
programs of this project, one after the other, each with its command line. For
each of three seeds there are beside them, with as many steps, images in a step
and the same augmentation, a network that sees the labelled images alone and
one that is told all labels. A table and a picture at the end say what each
reads of the digits that were held out, after its last step; nothing is chosen
by these. Takes the better part of an hour on two cores.

    python -m examples.noisy_student --dataset=fashion_mnist

does so with a hundred of each kind of clothes, where Fashion-MNIST is (see
docs/training.md).

The same command with --output goes on where it was stopped.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("examples.noisy_student")

import csv
import pathlib
import statistics
import time
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from absl import flags

from examples import few_labels
from examples.digits_demo import run_step
from trainers import run_folder
from trainers.data.datasets import open_dataset
from trainers.data.records import LABEL_KEY
from trainers.data.records import NAME_KEY
from trainers.files import replacing
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program
from trainers.pseudo_labels import shards
from trainers.pseudo_labels.label_records import FIRST_LABEL
from trainers.pseudo_labels.label_records import read_features

_DATASET = flags.DEFINE_enum(
    "dataset", "digits", ["digits", "fashion_mnist"], "The images."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where the files of Fashion-MNIST are."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where all goes; by default a new folder in runs/."
)
_LABELLED_PER_CLASS = flags.DEFINE_integer(
    "labelled_per_class",
    None,
    "Images of each class with labels; by default 4 digits or 100 clothes.",
    lower_bound=1,
)
_STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Of each training; by default 600 on digits, 2000 on clothes.",
    lower_bound=1,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "Images in a step, a multiple of 4.", lower_bound=4
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 2, "Times that labels are given and trained with.", lower_bound=1
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "One row each.")
_MIN_CONFIDENCE = flags.DEFINE_float(
    "min_confidence", 0.8, "Least probability of a label that is used."
)

_LABELLED_PER_CLASS_DEFAULTS = {"digits": 4, "fashion_mnist": 100}
_STEPS_DEFAULTS = {"digits": 600, "fashion_mnist": 2000}
_LABELLED_ONLY = "labelled only"
_ALL_LABELS = "all labels"
# Pseudo-labelled images for each labelled one, in a step.
_RATIO = 3
# Of the images that a class would have, were the unlabelled divided evenly.
_SHARE_PER_CLASS = 0.75
_EPOCHS = 4


def train_network(
    dataset: pathlib.Path,
    model_dir: pathlib.Path,
    *,
    seed: int,
    pseudo_labels: pathlib.Path | None = None,
) -> float:
    """Trains a network; returns its accuracy on what is held out.

    Args:
        dataset: folder of TFRecords.
        model_dir: folder of the run.
        seed: of the run.
        pseudo_labels: folder of selected labels, to train with too.
    """
    steps = _STEPS.value or _STEPS_DEFAULTS[_DATASET.value]
    arguments = [
        f"--dataset={dataset}",
        f"--recipe={_DATASET.value}",
        "--channels=1",
        f"--batch_size={_BATCH_SIZE.value}",
        f"--epochs={_EPOCHS}",
        f"--steps_per_epoch={max(1, steps // _EPOCHS)}",
        f"--warmup_epochs={_EPOCHS / 10}",
        f"--seed={seed}",
        "--mode=train",
        f"--model_dir={model_dir}",
    ]
    if pseudo_labels:
        arguments += [
            f"--pseudo_labels={pseudo_labels}",
            f"--pseudo_ratio={_RATIO}",
        ]
    run_step("trainers.train_classifier", *arguments)
    with open(model_dir / run_folder.METRICS_FILE, newline="") as file:
        *_, last = csv.DictReader(file)
    return float(last["val_accuracy"])


def make_labels(
    teacher_dir: pathlib.Path,
    records: pathlib.Path,
    folder: pathlib.Path,
    per_class: int,
) -> pathlib.Path:
    """Labels images, and selects labels.

    Args:
        teacher_dir: folder of the teacher's run.
        records: folder of what is unlabelled.
        folder: where folders labels and selected are made.
        per_class: number of labels of each class, some of them repeated.

    Returns:
        The folder of the selected ones.
    """
    export_dir = teacher_dir / "export"
    if not export_dir.exists():
        run_step(
            "export.export_model",
            # Not the best epoch, which is chosen by what is held out.
            f"--model={teacher_dir / run_folder.LAST_FILE}",
            "--formats=saved_model",
        )
    run_step(
        "export.label_images",
        f"--model={export_dir / 'saved_model'}",
        f"--images={records}",
        f"--output={folder / 'labels'}",
        "--top_k=10",
    )
    run_step(
        "trainers.select_labels",
        f"--labels={folder / 'labels'}",
        f"--output={folder / 'selected'}",
        f"--min_confidence={_MIN_CONFIDENCE.value}",
        f"--most_per_class={per_class}",
        f"--least_per_class={per_class}",
        "--allow_empty_classes",
    )
    return folder / "selected"


def measure_labels(folder: pathlib.Path, labels: np.ndarray) -> float:
    """Returns the share of selected labels that are right.

    Args:
        folder: of the selected labels.
        labels: int, true ones of all images to train on.
    """
    right = []
    for path in sorted(folder.glob("selected-*")):
        for record in shards.read_records(str(path)):
            features = read_features(record)
            position = int(features[NAME_KEY].bytes_list.value[0])
            label = features[LABEL_KEY].int64_list.value[0] - FIRST_LABEL
            right.append(labels[position] == label)
    return float(np.mean(right))


def run_seed(
    train: few_labels.Part,
    validation: few_labels.Part,
    class_names: Sequence[str],
    seed: int,
    folder: pathlib.Path,
) -> tuple[dict[str, float], list[float]]:
    """Trains all networks of a seed.

    Args:
        train, validation, class_names: as in `few_labels.write_records`.
        seed: decides which images are labelled, and of all runs.
        folder: where all goes.

    Returns:
        Accuracies by what was trained on, and of each round the share of
        selected labels that are right.
    """
    per_class = (
        _LABELLED_PER_CLASS.value
        or _LABELLED_PER_CLASS_DEFAULTS[_DATASET.value]
    )
    labelled = few_labels.choose_labelled(train.labels, per_class, seed)
    few_labels.write_records(train, validation, class_names, labelled, folder)
    num_unlabelled = len(train.labels) - len(labelled)
    wanted = round(_SHARE_PER_CLASS * num_unlabelled / len(class_names))
    teacher_dir = folder / "labelled_only"
    accuracies = {
        _LABELLED_ONLY: train_network(
            folder / "labelled", teacher_dir, seed=seed
        )
    }
    shares = []
    for number in range(1, _ROUNDS.value + 1):
        round_dir = folder / f"round{number}"
        selected = make_labels(
            teacher_dir, folder / "unlabelled", round_dir, wanted
        )
        shares.append(measure_labels(selected, train.labels))
        teacher_dir = round_dir / "student"
        accuracies[f"pseudo-labels, round {number}"] = train_network(
            folder / "labelled", teacher_dir, seed=seed, pseudo_labels=selected
        )
    accuracies[_ALL_LABELS] = train_network(
        folder / "all", folder / "all_labels", seed=seed
    )
    return accuracies, shares


def format_results(
    accuracies: Mapping[int, Mapping[str, float]],
    shares: Mapping[int, Sequence[float]],
) -> str:
    """Returns a table in Markdown, in per cent.

    Args:
        accuracies: by seed, what `run_seed` returned first.
        shares: by seed, what it returned second.
    """
    names = list(next(iter(accuracies.values())))
    rounds = range(len(next(iter(shares.values()))))
    header = [
        "seed",
        *names,
        *(f"right labels, round {number + 1}" for number in rounds),
    ]
    rows = [
        [*(accuracies[seed][name] for name in names), *shares[seed]]
        for seed in accuracies
    ]
    lines = [header, ["---"] * len(header)]
    for seed, row in zip(accuracies, rows, strict=True):
        lines.append([str(seed), *(f"{100 * value:.1f}" for value in row)])
    cells = []
    for column in zip(*rows, strict=True):
        mean = 100 * statistics.mean(column)
        spread = 100 * statistics.stdev(column) if len(column) > 1 else None
        cells.append(
            f"{mean:.1f}" if spread is None else f"{mean:.1f} ± {spread:.1f}"
        )
    lines.append(["mean", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot_results(
    accuracies: Mapping[int, Mapping[str, float]], path: pathlib.Path
) -> None:
    """Draws the accuracies of all seeds, as a PNG file.

    Args:
        accuracies: by seed, what `run_seed` returned first.
        path: the file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    names = list(next(iter(accuracies.values())))
    # On two lines, or they would meet.
    ticks = [name.replace(", ", ",\n") for name in names]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for seed, values in accuracies.items():
        axes.plot(
            ticks,
            [values[name] for name in names],
            marker="o",
            color="C0",
            alpha=0.4,
            label="each seed" if seed == next(iter(accuracies)) else None,
        )
    means = [
        statistics.mean(values[name] for values in accuracies.values())
        for name in names
    ]
    axes.plot(ticks, means, marker="_", markersize=24, color="C3", lw=0)
    for position, mean in enumerate(means):
        axes.annotate(
            f"{mean:.1%}",
            (position, mean),
            xytext=(14, -4),
            textcoords="offset points",
            color="C3",
        )
    axes.set(
        ylabel="accuracy on what is held out", xlim=(-0.4, len(names) - 0.4)
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    start = time.monotonic()
    if _BATCH_SIZE.value % (1 + _RATIO):
        raise UserError(
            f"--batch_size must be a multiple of {1 + _RATIO}, because a "
            f"labelled image goes with {_RATIO} others. "
            f"Received: {_BATCH_SIZE.value}"
        )
    if not all(seed.isdecimal() for seed in _SEEDS.value) or not _SEEDS.value:
        raise UserError(
            "--seeds must be numbers with commas between them. "
            f"Received: {','.join(_SEEDS.value)}"
        )
    dataset = open_dataset(_DATASET.value, _DATA_DIR.value)
    name = time.strftime(f"noisy_student-{_DATASET.value}-%Y%m%d-%H%M%S")
    folder = pathlib.Path(_OUTPUT.value or pathlib.Path("runs", name))
    parts = [
        few_labels.read_part(split)
        for split in (dataset.train, dataset.validation)
    ]
    accuracies, shares = {}, {}
    for seed in map(int, _SEEDS.value):
        accuracies[seed], shares[seed] = run_seed(
            *parts, dataset.class_names, seed, folder / f"seed{seed}"
        )
        plot_results(accuracies, folder / "accuracies.png")
        table = format_results(accuracies, shares)
        (folder / "results.md").write_text(f"{table}\n")
    print(
        f"\nAccuracy on {len(parts[1].labels):,} images that were held out, "
        f"per cent:\n\n{table}\n\nPicture: {folder / 'accuracies.png'}\n"
        f"All this took {time.monotonic() - start:.0f} seconds."
    )


def run() -> None:
    run_program(main)
