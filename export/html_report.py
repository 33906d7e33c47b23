"""An export's report as one page of HTML, with pictures and without scripts."""

import base64
import collections
import html
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from export.example_images import Examples

_MOST_PICTURES = 16
# Pixels of the longer side: more are reduced, and far fewer shown as squares.
_PICTURE_SIZE, _SMALL_SIZE = 320, 96
# More are folded away.
_MOST_CLASSES = 12

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --text: #1c2330; --faint: #5d6778;
  --line: #dfe3ea; --accent: #2457c5; --good: #17713b; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151b; --card: #1b2029; --text: #e6e9ef; --faint: #9aa4b5;
    --line: #303846; --accent: #8fb2ff; --good: #6fd196; --bad: #ff8f86;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 68rem;
  background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; }
h2 { margin: 2.2rem 0 .7rem; font-size: 1.15rem; }
p { margin: .4rem 0; }
.faint, caption, dt { color: var(--faint); }
summary { cursor: pointer; color: var(--accent); }
ul { margin: .4rem 0; padding-left: 1.2rem; }
.classes { display: flex; flex-wrap: wrap; gap: .35rem; padding: 0; }
.classes li {
  list-style: none; padding: .05rem .6rem; border: 1px solid var(--line);
  border-radius: 1rem; background: var(--card); font-size: .9rem;
}
table {
  width: 100%; border-collapse: collapse; background: var(--card);
  border: 1px solid var(--line); font-variant-numeric: tabular-nums;
}
th, td {
  padding: .5rem .6rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: normal;
}
thead th { font-size: .85rem; font-weight: 600; color: var(--faint); }
tbody th, thead th:first-child { text-align: left; }
td details { font-size: .85rem; }
td ul { padding: 0; list-style: none; }
.pictures {
  display: grid; gap: .8rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr));
}
figure {
  margin: 0; overflow: hidden; border: 1px solid var(--line);
  border-radius: .6rem; background: var(--card);
}
figure.doubtful { border-color: var(--bad); }
img {
  display: block; width: 100%; height: 10.5rem; object-fit: contain;
  background: var(--line);
}
img.small { image-rendering: pixelated; }
figcaption { padding: .5rem .7rem .6rem; font-size: .9rem; }
dl { margin: 0; }
dt { font-size: .8rem; line-height: 1.3; }
dd { margin: 0 0 .3rem; line-height: 1.35; }
.good { color: var(--good); }
.bad { color: var(--bad); }
@media (max-width: 44rem) {
  table, tbody, th, td { display: block; }
  thead { display: none; }
  table { border: 0; background: none; }
  tr {
    display: grid; grid-template-columns: repeat(2, minmax(0, 1fr));
    column-gap: 1.4rem;
    margin-bottom: .8rem; padding: .3rem .8rem; background: var(--card);
    border: 1px solid var(--line); border-radius: .6rem;
  }
  tbody th { grid-column: 1 / -1; padding: .4rem 0; border: 0; }
  td {
    display: flex; justify-content: space-between; gap: .5rem;
    padding: .3rem 0; font-size: .85rem; white-space: nowrap;
    border: 0; border-top: 1px solid var(--line);
  }
  td::before { content: attr(data-label); color: var(--faint); }
  td[data-label="Float"] { grid-column: 1 / -1; }
  td details { font-size: inherit; }
  .pictures { grid-template-columns: repeat(2, 1fr); }
}
"""


def build_html(
    report: Mapping,
    class_names: Sequence[str],
    examples: Examples,
    expected: np.ndarray,
) -> str:
    """Returns a page that shows a report in a browser, by itself.

    Args:
        report: what `exporter.read_report` returns.
        class_names: names of the classes. They, as all that is said of the
            model, may hold anything.
        examples: what the formats were compared on.
        expected: `(examples, classes)`, the probabilities by Keras.
    """
    model = _escape(report["model"])
    pictures = "".join(
        _build_picture(number, report, class_names, examples, expected)
        for number in choose_examples(report["formats"], len(examples.images))
    )
    accuracy = ""
    if report["accuracy"] is not None:
        share = format_share(report["accuracy"])
        accuracy = f", of which Keras gets {share} right"
    # No address may be fetched, whatever a name holds.
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Export of {model}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{model}</h1>
<p class="faint">Exported {_format_date(report["date"])}</p>
{_build_classes(class_names)}
</header>
<h2>Formats</h2>
{_build_table(report["formats"])}
<p>Compared with Keras on {_escape(report["examples"])}{accuracy}.</p>
<p class="faint">Difference: the largest in a probability. Same class: the share
of examples with the same most likely class as in Keras. Float: operators that
compute in it, of all. Times are medians.</p>
{_build_left_out(report["left_out"])}
<h2>Examples</h2>
<div class="pictures">{pictures}</div>
</body>
</html>
"""


def choose_examples(formats: Mapping[str, Mapping], count: int) -> list[int]:
    """Chooses which examples are shown.

    Args:
        formats: for each format what `verify_export.measure_format` says.
        count: number of examples.

    Returns:
        At most 16 numbers: first the examples that formats disagree on, most
        formats first, then others from all over.
    """
    disagreements = collections.Counter(
        int(number)
        for row in formats.values()
        for number in row["disagreements"]
    )
    chosen = [n for n, _ in disagreements.most_common(_MOST_PICTURES)]
    others = [n for n in range(count) if n not in disagreements]
    places = min(_MOST_PICTURES - len(chosen), len(others))
    return chosen + [others[n * len(others) // places] for n in range(places)]


def format_share(share: float | None) -> str:
    """Returns a share in percent, nothing if it is not known."""
    return "" if share is None else f"{share:.2%}"


def count_float(row: Mapping) -> str:
    """Returns how many operators of a format compute in float.

    Args:
        row: what `verify_export.measure_format` says.
    """
    if row["operators"] is None:
        return "all"
    counts = {kind: sum(n.values()) for kind, n in row["operators"].items()}
    return f"{counts['float']}/{counts['all']}"


def _escape(text):
    # Isolated, a name that is written from right to left turns nothing else.
    return f"<bdi>{html.escape(str(text))}</bdi>"


def _format_date(date):
    return html.escape(date.replace("T", " ").replace("+00:00", " UTC"))


def _build_classes(class_names):
    items = "".join(f"<li>{_escape(name)}</li>" for name in class_names)
    names = f'<ul class="classes">{items}</ul>'
    count = f"{len(class_names)} classes"
    if len(class_names) <= _MOST_CLASSES:
        return f'<p class="faint">{count}</p>{names}'
    return f"<details><summary>{count}</summary>{names}</details>"


def _build_table(formats):
    titles = (
        "Format",
        "Size",
        "Difference",
        "Same class",
        "Accuracy",
        "Float",
        "1 image",
        "8 images",
    )
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    rows = "".join(_build_row(row, titles[1:]) for row in formats.values())
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _build_row(row, titles):
    one, eight = row["latency_ms"].values()
    cells = (
        f"{row['size'] / 1e6:.2f} MB",
        f"{row['max_difference']:.1e}",
        format_share(row["top1_agreement"]),
        format_share(row["accuracy"]) or "unknown",
        _build_operators(row),
        f"{one:.2f} ms",
        f"{eight:.2f} ms",
    )
    columns = "".join(
        f'<td data-label="{title}">{cell}</td>'
        for title, cell in zip(titles, cells, strict=True)
    )
    return f'<tr><th scope="row">{_escape(row["file"])}</th>{columns}</tr>'


def _build_operators(row):
    counts = count_float(row)
    if not row["operators"] or not row["operators"]["float"]:
        return f"<span>{counts}</span>"
    items = "".join(
        f"<li>{count} {_escape(name)}</li>"
        for name, count in sorted(row["operators"]["float"].items())
    )
    return f"<details><summary>{counts}</summary><ul>{items}</ul></details>"


def _build_left_out(left_out):
    if not left_out:
        return ""
    items = "".join(
        f"<li><b>{_escape(name)}</b>: {_escape(reason)}</li>"
        for name, reason in left_out.items()
    )
    return f"<h2>Left out</h2><ul>{items}</ul>"


def _build_picture(number, report, class_names, examples, expected):
    top = int(expected[number].argmax())
    said = {
        row["file"]: int(row["disagreements"][str(number)])
        for row in report["formats"].values()
        if str(number) in row["disagreements"]
    }
    lines = []
    kind = ""
    if examples.labels is not None:
        label = int(examples.labels[number])
        lines.append(("True", "", _escape(class_names[label])))
        kind = "good" if label == top else "bad"
    percent = f"{expected[number, top]:.1%}"
    lines.append(("Keras", kind, f"{_escape(class_names[top])} {percent}"))
    lines += [
        (html.escape(file), "bad", _escape(class_names[other]))
        for file, other in said.items()
    ]
    items = "".join(
        f'<dt>{name}</dt><dd class="{kind}">{text}</dd>'
        for name, kind, text in lines
    )
    return (
        f'<figure class="{"doubtful" if said else ""}">'
        f"{_build_image(examples.images[number], number)}"
        f"<figcaption><dl>{items}</dl></figcaption></figure>"
    )


def _build_image(image, number):
    longer = max(image.shape[:2])
    if longer > _PICTURE_SIZE:
        size = [
            max(1, round(length * _PICTURE_SIZE / longer))
            for length in image.shape[:2]
        ]
        image = tf.image.resize(image, size, antialias=True)
        image = tf.cast(tf.round(image), tf.uint8)
    content = base64.b64encode(tf.io.encode_png(image).numpy()).decode()
    kind = ' class="small"' if longer < _SMALL_SIZE else ""
    return (
        f'<img{kind} alt="Example {number}" '
        f'src="data:image/png;base64,{content}">'
    )
