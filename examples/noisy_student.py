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
from typing import NamedTuple

import numpy as np
from absl import flags

from examples.digits_demo import run_step
from trainers import run_folder
from trainers.files import replacing
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

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
_IMAGES_PER_FILE = 5000


class Part(NamedTuple):
    """Images and, but for what they are to be taken for, their labels.

    Attributes:
        images: list of PNG files' contents.
        labels: int, `(images,)`, from 0.
    """

    images: list[bytes]
    labels: np.ndarray


def read_part(split) -> Part:
    """Reads a split of gray images.

    Args:
        split: `trainers.data.image_dataset.Split`.
    """
    import tensorflow as tf

    images, labels = [], []
    for image, label in split.examples:
        images.append(tf.io.encode_png(split.load(image)).numpy())
        labels.append(int(label))
    return Part(images, np.array(labels))


def choose_labelled(
    labels: np.ndarray, per_class: int, seed: int
) -> np.ndarray:
    """Chooses the images whose labels are told, as many of each class.

    Args:
        labels: int, `(images,)`.
        per_class: number of each class.
        seed: decides which.

    Returns:
        Their positions, rising.

    Raises:
        UserError: If a class has too few, or no image would be left.
    """
    least = np.bincount(labels).min()
    if per_class >= least:
        raise UserError(
            "--labelled_per_class must leave some images without a label, so "
            f"be below {least}. Received: {per_class}"
        )
    generator = np.random.default_rng(seed)
    return np.sort(
        np.concatenate(
            [
                generator.choice(
                    np.flatnonzero(labels == label), per_class, replace=False
                )
                for label in np.unique(labels)
            ]
        )
    )


def write_part(
    part: Part, positions: np.ndarray, folder: pathlib.Path, name: str
) -> None:
    """Writes images as TFRecords, with labels unless they are unlabelled.

    Args:
        part: the images.
        positions: of those to write.
        folder: existing folder.
        name: `"train"`, `"validation"` or `"unlabelled"`.
    """
    import tensorflow as tf

    from trainers.data.records import IMAGE_KEY
    from trainers.data.records import LABEL_KEY
    from trainers.pseudo_labels.label_records import NAME_KEY

    count = -(-len(positions) // _IMAGES_PER_FILE)
    for number, chosen in enumerate(np.array_split(positions, count)):
        path = folder / f"{name}-{number:05}-of-{count:05}"
        with (
            replacing(path) as temporary,
            tf.io.TFRecordWriter(str(temporary)) as writer,
        ):
            for position in chosen:
                features = {
                    IMAGE_KEY: _strings(part.images[position]),
                    NAME_KEY: _strings(str(position).encode()),
                }
                if name != "unlabelled":
                    features[LABEL_KEY] = tf.train.Feature(
                        int64_list=tf.train.Int64List(
                            value=[part.labels[position] + 1]
                        )
                    )
                example = tf.train.Example(
                    features=tf.train.Features(feature=features)
                )
                writer.write(example.SerializeToString())


def _strings(value):
    import tensorflow as tf

    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def write_records(
    train: Part,
    validation: Part,
    class_names: Sequence[str],
    labelled: np.ndarray,
    folder: pathlib.Path,
) -> None:
    """Writes what a seed trains on.

    Args:
        train: images to train on.
        validation: those held out.
        class_names: in the order of the labels.
        labelled: positions in `train` of those whose labels are told.
        folder: where folders labelled, unlabelled and all are made.
    """
    every = np.arange(len(train.labels))
    for name, positions in (("labelled", labelled), ("all", every)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "labels.txt").write_text(
            "".join(f"{class_name}\n" for class_name in class_names)
        )
        write_part(train, positions, folder / name, "train")
        held_out = np.arange(len(validation.labels))
        write_part(validation, held_out, folder / name, "validation")
    (folder / "unlabelled").mkdir(exist_ok=True)
    rest = np.setdiff1d(every, labelled)
    write_part(train, rest, folder / "unlabelled", "unlabelled")


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
        records: folder of what `write_part` wrote as unlabelled.
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
    import tensorflow as tf

    from trainers.data.records import LABEL_KEY
    from trainers.pseudo_labels import shards
    from trainers.pseudo_labels.label_records import NAME_KEY

    right = []
    for path in sorted(folder.glob("selected-*")):
        for record in shards.read_records(str(path)):
            feature = tf.train.Example.FromString(record).features.feature
            position = int(feature[NAME_KEY].bytes_list.value[0])
            label = feature[LABEL_KEY].int64_list.value[0] - 1
            right.append(labels[position] == label)
    return float(np.mean(right))


def run_seed(
    train: Part,
    validation: Part,
    class_names: Sequence[str],
    seed: int,
    folder: pathlib.Path,
) -> tuple[dict[str, float], list[float]]:
    """Trains all networks of a seed.

    Args:
        train, validation, class_names: as in `write_records`.
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
    labelled = choose_labelled(train.labels, per_class, seed)
    write_records(train, validation, class_names, labelled, folder)
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
    from trainers.data.datasets import open_dataset

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
    parts = read_part(dataset.train), read_part(dataset.validation)
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
