"""The page of an export, from reports made up here."""

import base64
import copy
import html.parser
import re

import numpy as np
import pytest
import tensorflow as tf

from export import html_report
from export.example_images import Examples

ROW = {
    "file": "model.tflite",
    "size": 2_510_000,
    "max_difference": 6.9e-7,
    "top1_agreement": 0.95,
    "accuracy": None,
    "disagreements": {},
    "operators": {"all": {"CONV_2D": 3, "ADD": 2}, "float": {"CONV_2D": 1}},
    "latency_ms": {"1": 0.3, "8": 2.31},
}
REPORT = {
    "model": "digits/best.keras",
    "date": "2026-11-28T21:50:00+00:00",
    "examples": "20 images",
    "accuracy": None,
    "formats": {"tflite": ROW},
    "left_out": {},
}


class Page(html.parser.HTMLParser):
    """What a page consists of: names and attributes of tags, and texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.images = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            source = dict(attributes)["src"]
            content = source.removeprefix("data:image/png;base64,")
            png = base64.b64decode(content, validate=True)
            self.images.append(tf.io.decode_png(png).numpy())

    def handle_data(self, data):
        self.texts.append(data)


def build(names=("cat", "dog"), labels=None, images=None, **changes):
    report = copy.deepcopy(REPORT) | changes
    if images is None:
        images = [np.full((8, 8, 1), n, "uint8") for n in range(20)]
    expected = np.tile([0.75, 0.25], (len(images), 1))
    examples = Examples("", images, labels)
    return html_report.build_html(report, names, examples, expected)


def test_examples_that_formats_disagree_on_come_first():
    formats = {
        "tflite": {"disagreements": {"7": 1, "11": 0}},
        "onnx": {"disagreements": {"11": 1}},
    }
    chosen = html_report.choose_examples(formats, 40)
    assert chosen[:2] == [11, 7]
    assert len(chosen) == len(set(chosen)) == 16
    # The others are from all over.
    assert chosen[2] == 0
    assert chosen[-1] > 35
    many = {"tflite": {"disagreements": {str(n): 0 for n in range(30)}}}
    assert html_report.choose_examples(many, 40) == list(range(16))
    assert html_report.choose_examples({}, 2) == [0, 1]


def test_page_says_who_says_what_of_an_example():
    row = ROW | {"disagreements": {"11": 1}}
    text = build(labels=np.zeros(20, int), formats={"tflite": row})
    page = Page(text)
    assert page.images[0].max() == 11
    begin = page.texts.index("Examples")
    said = " ".join(t.strip() for t in page.texts[begin + 1 :] if t.strip())
    assert said.startswith(
        "True cat Keras cat 75.0% model.tflite dog True cat Keras cat 75.0% T"
    )
    assert text.count("doubtful") == 2


def test_page_shows_each_format_and_what_was_left_out():
    text = build(accuracy=0.9972, left_out={"onnx": "it needs <onnx>"})
    for part in ("2.51 MB", "6.9e-07", "95.00%", "0.30 ms", "2.31 ms"):
        assert f">{part}</td>" in text
    assert "<summary>1/5</summary><ul><li>1 <bdi>CONV_2D" in text
    assert "of which Keras gets 99.72% right" in text
    assert "it needs &lt;onnx&gt;" in text
    assert "2026-11-28 21:50:00 UTC" in text
    assert "True" not in text


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</bdi></style><b>",
        "a & b &lt; 'c'",
    ],
)
def test_names_are_text_wherever_they_stand(name):
    text = build(
        names=(name, name),
        labels=np.ones(20, int),
        model=name,
        examples=name,
        left_out={name: name},
        formats={
            "tflite": ROW
            | {
                "file": name,
                "disagreements": {"0": 1},
                "operators": {"all": {name: 1}, "float": {name: 1}},
            }
        },
    )
    page = Page(text)
    expected = Page(build(names=("x", "x"), labels=np.ones(20, int)))
    assert set(page.tags) - {"h2", "b"} <= set(expected.tags)
    assert page.texts.count(name) > 30
    assert page.tags.count("img") == 16


def test_page_needs_nothing_else():
    text = build()
    assert not re.search(r"https?:|@import|url\(|<script|<link|<iframe", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((8, 8, 1), (8, 8, 1)),
        ((640, 1280, 3), (160, 320, 3)),
        ((1, 4000, 3), (1, 320, 3)),
    ],
    ids=["small", "large", "a line"],
)
def test_large_pictures_are_reduced(shape, shown):
    page = Page(build(images=[np.full(shape, 200, "uint8")]))
    assert page.images[0].shape == shown
    assert (page.images[0] == 200).all()


def test_many_classes_are_folded_away():
    page = Page(build(names=[f"class {n}" for n in range(1000)]))
    assert "1000 classes" in page.texts
    assert page.tags.index("details") < page.tags.index("table")
