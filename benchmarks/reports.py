"""Tables, files and summaries of what was measured."""

import csv
import math
import pathlib
from collections.abc import Callable
from typing import Any

from benchmarks.cases import LIMIT
from benchmarks.cases import PEERS
from trainers.files import replacing


def write_csv(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows of the same keys; a file is there whole or not at all."""
    with (
        replacing(path) as temporary,
        open(temporary, "w", newline="") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def format_table(header: list[str], rows: list[list[Any]]) -> str:
    """Aligns columns: the first to the left, the others to the right."""
    lines = [header, *[[_format_cell(cell) for cell in row] for row in rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(
                zip(line, widths, strict=True)
            )
        ).rstrip()
        for line in lines
    )


def _format_cell(cell):
    if cell is None:
        return "-"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def geometric_mean(ratios: list[float]) -> float:
    """Returns the mean of ratios that does not depend on which way up."""
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def group_by_case(rows: list[dict[str, Any]]) -> dict[tuple, dict]:
    """Returns the rows that have a time, by case and then contestant."""
    groups = {}
    for row in rows:
        key = (row["shape"], row["scope"], row["batch_size"], row["mode"])
        if row["median_ms"] is not None:
            groups.setdefault(key, {})[row["contestant"]] = row
    return groups


def compare(
    rows: list[dict[str, Any]],
    mode: str,
    choose: Callable[[dict], dict | None],
    column: str = "median_ms",
) -> dict[tuple, float]:
    """Returns how many times as much another takes as ours, by case.

    Args:
        rows: one per case and contestant.
        mode: which cases to look at.
        choose: picks a row out of those of a case, or `None`.
        column: what is compared.
    """
    ratios = {}
    for case, contestants in group_by_case(rows).items():
        ours, other = contestants.get("ours"), choose(contestants)
        if case[-1] != mode or ours is None or other is None:
            continue
        if ours[column] and other[column]:
            ratios[case] = other[column] / ours[column]
    return ratios


def choose_best_peer(contestants: dict[str, dict]) -> dict | None:
    """Returns the row of the fastest lambda layer that is not ours."""
    peers = [contestants[name] for name in PEERS if name in contestants]
    return min(peers, key=lambda row: row["median_ms"], default=None)


def summarize(rows: list[dict[str, Any]]) -> str:
    """Returns what others take, in units of ours, over all cases.

    The table has geometric means of the ratios of the medians, of the quickest
    calls, which a busy machine disturbs less, and of the memory; and the case
    in which the ratio of the medians is smallest.
    """
    choices = {"fastest other lambda": choose_best_peer}
    for name in dict.fromkeys(row["contestant"] for row in rows):
        if name != "ours":
            choices[name] = lambda found, name=name: found.get(name)
    table = []
    for name, choose in choices.items():
        for mode in _list_modes(rows):
            ratios = [
                compare(rows, mode, choose, column)
                for column in ("median_ms", "min_ms", "peak_mib")
            ]
            if ratios[0]:
                table.append([name, mode, *_describe(*ratios)])
    header = ["ours = 1", "mode", "cases", "median", "min", "memory"]
    return format_table([*header, "worst", "in"], table)


def format_limits(rows: list[dict[str, Any]]) -> str:
    """Returns what ours take, in units of what arithmetic alone takes."""
    limits = {
        mode: compare(rows, mode, lambda found: found.get(LIMIT))
        for mode in _list_modes(rows)
    }
    layers = dict.fromkeys(case[:-1] for case in group_by_case(rows))
    table = []
    for layer in layers:
        shares = [limits[mode].get((*layer, mode)) for mode in limits]
        if any(shares):
            table.append([_name(layer), *(s and 1 / s for s in shares)])
    return format_table(["arithmetic limit = 1", *limits], table)


def _list_modes(rows):
    return list(dict.fromkeys(row["mode"] for row in rows))


def _name(layer):
    shape, scope, batch_size = layer
    return f"{shape}, scope {scope}, batch {batch_size}"


def _describe(medians, minima, memory):
    worst = min(medians, key=medians.get)
    means = [
        geometric_mean(list(ratios.values())) if ratios else None
        for ratios in (medians, minima, memory)
    ]
    return [len(medians), *means, medians[worst], _name(worst[:-1])]


def draw_ratios(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws the time of the best peer in units of ours, a bar per case."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    modes = _list_modes(rows)
    ratios = {mode: compare(rows, mode, choose_best_peer) for mode in modes}
    cases = list(dict.fromkeys(case[:-1] for case in group_by_case(rows)))
    figure = Figure(figsize=(8, 1.5 + 0.3 * len(cases)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(modes)
    for index, mode in enumerate(modes):
        ends = [ratios[mode].get((*case, mode), math.nan) for case in cases]
        bars = [end - 1 for end in ends]
        places = [place + index * height for place in range(len(cases))]
        axes.barh(places, bars, height, left=1, label=mode)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(
        [place + 0.4 - height / 2 for place in range(len(cases))],
        [_name(case) for case in cases],
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("time of the fastest other lambda layer / time of ours")
    figure.legend(loc="outside upper right", ncols=len(modes))
    write_figure(figure, path)


def write_figure(figure, path: pathlib.Path) -> None:
    """Writes a PNG file, which is there whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
