"""What a network says of images, as text for people and for programs."""

import csv
import io
import json
from typing import NamedTuple

import numpy as np

from export.command_line import escape

CSV_HEADER = "path,rank,class,index,probability,error\n"


class Prediction(NamedTuple):
    """What is said of one image file.

    Attributes:
        path: name of the file.
        classes: the most likely classes, the first one first; none if it is
            in error.
        error: what is wrong with the file, or `""`.
    """

    path: str
    classes: list["RankedClass"]
    error: str


class RankedClass(NamedTuple):
    """One of the most likely classes of an image."""

    name: str
    index: int
    probability: float


def rank_classes(
    probabilities: np.ndarray, class_names: list[str], top: int
) -> list[RankedClass]:
    """Returns the most likely classes.

    Args:
        probabilities: float32, `(classes,)`.
        class_names: one name per class.
        top: how many to return, or all if there are fewer.
    """
    best = np.argsort(-probabilities, kind="stable")[:top]
    # The shortest number that is the same in float32.
    return [
        RankedClass(class_names[n], int(n), float(str(probabilities[n])))
        for n in best
    ]


def format_table(prediction: Prediction) -> str:
    """Returns a line with the path, and one for each class.

    Returns nothing of a file in error.
    """
    if prediction.error:
        return ""
    lines = [escape(prediction.path)]
    for ranked in prediction.classes:
        lines.append(f"  {ranked.probability:7.2%}  {escape(ranked.name)}")
    return "\n".join(lines) + "\n"


def format_json(prediction: Prediction) -> str:
    """Returns an object on a line, of ASCII: `path`, `classes` or `error`."""
    if prediction.error:
        record = {"path": prediction.path, "error": prediction.error}
    else:
        classes = [ranked._asdict() for ranked in prediction.classes]
        record = {"path": prediction.path, "classes": classes}
    return json.dumps(record) + "\n"


def format_csv(prediction: Prediction) -> str:
    """Returns a row for each class, or one for an error; see `CSV_HEADER`."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for rank, ranked in enumerate(prediction.classes, start=1):
        writer.writerow((prediction.path, rank, *ranked, ""))
    if prediction.error:
        writer.writerow((prediction.path, "", "", "", "", prediction.error))
    return lines.getvalue()


def escape_all(prediction: Prediction) -> Prediction:
    """Returns a prediction whose path and class names are escaped."""
    classes = [
        ranked._replace(name=escape(ranked.name))
        for ranked in prediction.classes
    ]
    return Prediction(
        escape(prediction.path), classes, escape(prediction.error)
    )
