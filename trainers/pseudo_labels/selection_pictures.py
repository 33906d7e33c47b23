"""Pictures of a selection of labels."""

import pathlib

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainers import plots
from trainers.data.decoding import decode_image
from trainers.pseudo_labels import selection
from trainers.pseudo_labels import selection_passes
from trainers.pseudo_labels import shards

# Beyond so many classes, names are not legible.
_MOST_NAMED_CLASSES = 30
# In samples.png; each has two images.
_CLASSES_IN_A_ROW = 5
_SAMPLE_TITLES = {"surest": "surest", "last": "least sure"}


def draw_selection(output: str, report: dict) -> None:
    """Writes confidence.png, classes.png and samples.png.

    Args:
        output: folder of a selection that is whole.
        report: what `selection_report.make_report` returned.
    """
    for name, draw in (
        ("confidence.png", _draw_confidence),
        ("classes.png", _draw_classes),
    ):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        draw(axes, report)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_axisbelow(True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        with shards.replacing(shards.join(output, name)) as local:
            figure.savefig(local, dpi=150)
    with shards.replacing(shards.join(output, "samples.png")) as local:
        _draw_samples(output, report, local)


def _draw_confidence(axes, report):
    axes.stairs(report["histogram"], selection.BIN_EDGES, fill=True)
    axes.axvline(
        report["settings"]["min_confidence"],
        color="black",
        linestyle="--",
        label="--min_confidence",
    )
    axes.set(
        title=f"{report['confident']:,} of {report['records']:,} images are "
        "confident enough",
        xlabel="probability of the surest class",
        ylabel="images",
        xlim=(0, 1),
    )


def _draw_classes(axes, report):
    classes = sorted(report["classes"], key=lambda row: -row["confident"])
    for key, label, fill in (
        ("confident", "confident", True),
        ("copies", "chosen, with copies", False),
    ):
        values = [row[key] for row in classes]
        axes.stairs(values, fill=fill, label=label, linewidth=2)
    axes.set(xlabel="class, the most frequent first", ylabel="images")
    if len(classes) <= _MOST_NAMED_CLASSES:
        names = [row["name"] for row in classes]
        axes.set_xticks(np.arange(len(classes)) + 0.5, names, rotation=90)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_samples(output, report, picture_file: pathlib.Path):
    choices = selection_passes.read_choices(output)
    images = []
    titles = []
    for number in selection_passes.sample_classes(choices):
        for field in selection_passes.SAMPLES:
            image = _read_sample(output, number, field)
            confidence = choices[number][field]["confidence"]
            said = f"{_SAMPLE_TITLES[field]}, {confidence:.1%}"
            if image is None:
                image = np.zeros((1, 1, 3), np.uint8)
                said = "cannot be decoded"
            images.append(image)
            titles.append(f"{report['classes'][number]['name']}\n{said}")
    columns = min(len(images), 2 * _CLASSES_IN_A_ROW)
    plots.plot_images(images, titles, picture_file, columns=columns)


def _read_sample(output, number, field):
    """Returns an image, or `None` of a damaged one."""
    path = selection_passes.name_sample(output, number, field)
    with shards.fetching(path) as local:
        contents = local.read_bytes()
    try:
        return decode_image(tf.constant(contents), channels=3).numpy()
    except tf.errors.InvalidArgumentError:
        return None
