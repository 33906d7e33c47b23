"""What a selection of labels came to, in numbers."""

import numpy as np

_ROWS = {
    "records": "labelled",
    "confident": "confident",
    "chosen": "chosen",
    "copies": "with copies",
}


def make_report(
    class_names: list[str],
    counts: np.ndarray,
    choices: np.ndarray,
    settings: dict,
) -> dict:
    """Makes the contents of report.json.

    Args:
        class_names: name of each class.
        counts: int64, `(num_classes, 1 + bins)`, of `summarize_shard`.
        choices: `selection.CHOICE`, `(num_classes,)`.
        settings: what the user asked for.
    """
    classes = [
        {
            "name": name,
            "records": sum(histogram),
            "confident": confident,
            "chosen": int(choice["images"]),
            "copies": int(choice["copies"]),
            "histogram": histogram,
        }
        for name, (confident, *histogram), choice in zip(
            class_names, counts.tolist(), choices, strict=True
        )
    ]
    return {
        "settings": settings,
        **{key: sum(row[key] for row in classes) for key in _ROWS},
        "histogram": counts[:, 1:].sum(axis=0).tolist(),
        "classes": classes,
    }


def format_summary(report: dict) -> str:
    """Returns a table of a report: images in all, and of a class."""
    lines = [("", "images", "fewest of a class", "most")]
    for key, title in _ROWS.items():
        numbers = [row[key] for row in report["classes"]]
        values = (report[key], min(numbers), max(numbers))
        lines.append((title, *(f"{value:,}" for value in values)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *map(str.rjust, line[1:], widths[1:]),
            ]
        )
        for line in lines
    )
