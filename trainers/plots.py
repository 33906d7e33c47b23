"""Pictures of a run."""

import csv
import math
import os
from collections.abc import Sequence

import numpy as np
import sklearn.metrics
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.ticker import PercentFormatter

from trainers.files import make_path
from trainers.files import replacing

# Beyond so many classes, numbers and names in the cells are not legible.
_MOST_LABELED_CLASSES = 30
_MOST_DRAWN_IMAGES = 64
# Of a class in a label; smoothing gives others less, unless they are few.
_SMALLEST_NAMED_SHARE = 0.02


def plot_training_curves(
    metrics_file: os.PathLike, picture_file: os.PathLike
) -> None:
    """Draws loss and accuracy by epoch, in training and in validation.

    Those of the average of the weights, too, if there is one.

    Args:
        metrics_file: CSV file with a row for each epoch.
        picture_file: PNG file to write.
    """
    lines = make_path(metrics_file).read_text().splitlines()
    rows = list(csv.DictReader(lines))
    epochs = [int(row["epoch"]) + 1 for row in rows]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, metric in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), strict=True
    ):
        for name, label, style in (
            (metric, "training", "-"),
            (f"val_{metric}", "validation", "-"),
            # The lines of both are often one.
            (f"val_average_{metric}", "average in validation", "--"),
        ):
            if name in rows[0]:
                values = [float(row[name]) for row in rows]
                # A point shows where a line has only one.
                axes.plot(epochs, values, style, marker=".", label=label)
        axes.set(xlabel="epoch", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _save(figure, picture_file)


def plot_confusion_matrix(
    labels: np.ndarray,
    predictions: np.ndarray,
    class_names: Sequence[str],
    picture_file: os.PathLike,
) -> None:
    """Draws how often each class was taken for each other.

    Args:
        labels: `(examples,)`, the true classes.
        predictions: `(examples,)`, the predicted classes.
        class_names: the names of the classes.
        picture_file: PNG file to write.
    """
    count = len(class_names)
    matrix = sklearn.metrics.confusion_matrix(
        labels, predictions, labels=range(count)
    )
    is_legible = count <= _MOST_LABELED_CLASSES
    side = min(4 + 0.4 * count, 12)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    sklearn.metrics.ConfusionMatrixDisplay(
        matrix, display_labels=class_names
    ).plot(
        ax=axes,
        cmap="Blues",
        include_values=is_legible,
        values_format="d",
        colorbar=not is_legible,
    )
    is_wordy = max(len(name) for name in class_names) > 2
    axes.tick_params(axis="x", rotation=90 if is_wordy else 0)
    if not is_legible:
        axes.set(xticks=[], yticks=[])
    accuracy = np.trace(matrix) / math.fsum(matrix.ravel())
    axes.set(
        title=f"{matrix.sum()} validation examples, {accuracy:.2%} correct",
        xlabel="predicted class",
        ylabel="true class",
    )
    _save(figure, picture_file)


def plot_batch(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    picture_file: os.PathLike,
) -> None:
    """Draws images of a batch in a grid, each below what its label says.

    Args:
        images: `(batch_size, height, width, channels)` of 1 or 3 channels, 0
            to 255. The first 64 are drawn.
        labels: `(batch_size, num_classes)`, the shares of the classes.
        class_names: the names of the classes.
        picture_file: PNG file to write.
    """
    images = images[:_MOST_DRAWN_IMAGES]
    plot_images(
        [np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in images],
        [
            _describe_label(label, class_names)
            for label in labels[: len(images)]
        ],
        picture_file,
        columns=math.ceil(math.sqrt(len(images))),
    )


def plot_images(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    picture_file: os.PathLike,
    *,
    columns: int,
) -> None:
    """Draws images in a grid, row by row, each below its title.

    Args:
        images: uint8, `(height, width, channels)` each, of 1 or 3 channels.
        titles: of at most two lines.
        picture_file: PNG file to write.
        columns: number of images in a row.
    """
    rows = math.ceil(len(images) / columns)
    # Inches: 1.5 for an image, 0.3 above it for two lines.
    size = 1.6 * columns, 1.9 * rows
    figure = Figure(figsize=size)
    # One for all, since axes of their own would take a second to draw.
    axes = figure.add_axes((0, 0, 1, 1))
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(number, columns)
        height, width = 1.5 * np.array(image.shape[:2]) / max(image.shape[:2])
        center = 1.6 * column + 0.8
        bottom = 1.9 * row + 1.1 + height / 2
        top = bottom - height
        axes.imshow(
            image,
            vmin=0,
            vmax=255,
            cmap="gray",
            extent=(center - width / 2, center + width / 2, bottom, top),
        )
        axes.text(
            center, top - 0.04, title, fontsize=7, ha="center", va="bottom"
        )
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    axes.set_axis_off()
    _save(figure, picture_file)


def _describe_label(label, class_names):
    """Names the two classes of the largest shares, with these if mixed."""
    first, *others = np.argsort(-label, kind="stable")[:2]
    if not others or label[others[0]] < _SMALLEST_NAMED_SHARE:
        return class_names[first]
    return "\n".join(
        f"{label[index]:.0%} {class_names[index]}" for index in (first, *others)
    )


def _save(figure, picture_file):
    with replacing(picture_file) as temporary:
        figure.savefig(temporary, dpi=150)
