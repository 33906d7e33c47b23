import csv
import io
import json

import numpy as np
import pytest

from export import predictions
from export.predictions import Prediction
from export.predictions import RankedClass
from export.predictions import rank_classes

NASTY = "a\x1b[31m\n\u202eb\udcff\x9b"
SHOWN = r"a\x1b[31m\n\u202eb\udcff\x9b"
GOOD = Prediction(NASTY, [RankedClass("cat, tabby", 7, 0.75)], "")
BAD = Prediction("b.png", [], "is damaged")


def test_most_likely_classes_come_first():
    probabilities = np.float32([0.1, 0.6, 1e-9, 0.3])
    ranked = rank_classes(probabilities, ["a", "b", "c", "d"], top=3)
    assert ranked == [("b", 1, 0.6), ("d", 3, 0.3), ("a", 0, 0.1)]


def test_more_classes_than_there_are_is_all_of_them():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(1000))
    names = [f"class {number}" for number in range(1000)]
    ranked = rank_classes(probabilities.astype("float32"), names, top=5000)
    assert sorted(c.index for c in ranked) == list(range(1000))
    assert all(names[c.index] == c.name for c in ranked)
    likely = [c.probability for c in ranked]
    assert likely == sorted(likely, reverse=True)


def test_table_has_a_line_for_each_class():
    classes = [RankedClass("five", 5, 0.98765), RankedClass("six", 6, 0.005)]
    assert predictions.format_table(Prediction("a.png", classes, "")) == (
        "a.png\n   98.77%  five\n    0.50%  six\n"
    )
    assert predictions.format_table(BAD) == ""


def test_terminal_sees_no_control_character():
    prediction = Prediction(NASTY, [RankedClass(NASTY, 0, 0.75)], "")
    text = predictions.format_table(prediction)
    assert text == f"{SHOWN}\n   75.00%  {SHOWN}\n"
    escaped = predictions.escape_all(prediction._replace(error=NASTY))
    assert escaped == (SHOWN, [(SHOWN, 0, 0.75)], SHOWN)


@pytest.mark.parametrize("text", ["größe 大 🐈 e\u0301.png", "two words"])
def test_text_is_shown_as_it_is(text):
    assert predictions.escape(text) == text


def test_json_is_an_object_on_a_line():
    text = predictions.format_json(GOOD) + predictions.format_json(BAD)
    assert text.isascii()
    assert [json.loads(line) for line in text.splitlines()] == [
        {
            "path": NASTY,
            "classes": [
                {"name": "cat, tabby", "index": 7, "probability": 0.75}
            ],
        },
        {"path": "b.png", "error": "is damaged"},
    ]
    assert "\x1b" not in text


def test_csv_has_a_row_for_each_class_and_error():
    text = "".join(map(predictions.format_csv, [GOOD, BAD]))
    rows = csv.DictReader(io.StringIO(predictions.CSV_HEADER + text))
    names = ("path", "rank", "class", "index", "probability", "error")
    assert [tuple(row[name] for name in names) for row in rows] == [
        (NASTY, "1", "cat, tabby", "7", "0.75", ""),
        ("b.png", "", "", "", "", "is damaged"),
    ]
