"""Tables with one embedding an offset, and what lies at which offset.

A query at position `x` of its axis and a context position `y` of the same axis
have the offset `y * strides.context - x * strides.query`.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from keras import ops


class Strides(NamedTuple):
    """Steps of two grids that cover the same ground, in units of the finer."""

    query: int = 1
    context: int = 1


class Band(NamedTuple):
    """The rows of the context that a block of query rows sees.

    Attributes:
        offset: index of the first one's embeddings.
        start: index of the first one.
        count: number of rows.
    """

    offset: int
    start: int
    count: int


def count_offsets(query_size, context_size, strides):
    """Returns how many offsets there are between two axes of positions."""
    before = (query_size - 1) * strides.query
    after = (context_size - 1) * strides.context
    return before + 1 + after


def take_offsets(table, axis, start, stop):
    """Slices a table, with zeros where the slice lies outside.

    Args:
        table: tensor of any shape.
        axis: axis of offsets to slice.
        start: first index, may be negative.
        stop: index after the last, may be beyond the end.

    Returns:
        The table with `stop - start` indices on the axis. An offset outside
        the table's scope is zero: nothing there interacts.
    """
    size = table.shape[axis]
    inside = slice(min(max(start, 0), size), max(min(stop, size), 0))
    padding = [(0, 0)] * len(table.shape)
    padding[axis] = (
        min(max(-start, 0), stop - start),
        min(max(stop - size, 0), stop - start),
    )
    table = table[(slice(None),) * axis + (inside,)]
    return ops.pad(table, padding) if np.any(padding) else table


def expand_offsets(table, query_grid, context_grid, strides):
    """Turns one embedding an offset into one a pair of positions.

    Args:
        table: `(g, k, u, count_offsets(...), ...)`.
        query_grid: sizes of the grid of the queries.
        context_grid: sizes of the grid of the context.
        strides: steps of the two grids, one pair an axis.

    Returns:
        `(g, n, k, u, m)`, the paper's `E`: entry `(n, m)` is the table's entry
        for the offset from query `n` to context position `m`.
    """
    depths = table.shape[:3]
    queries = contexts = 1
    for axis in reversed(range(len(query_grid))):
        query_size, context_size = query_grid[axis], context_grid[axis]
        outer = math.prod(table.shape[3 : 3 + axis])
        offsets = table.shape[3 + axis]
        pairs = ops.reshape(table, (math.prod(depths) * outer, offsets, -1))
        pairs = _shift_rows(pairs, query_size, strides[axis].query)
        if strides[axis].context > 1:
            pairs = pairs[:, :, :: strides[axis].context]
        # Few axes suit every converter.
        if axis > 0:
            pairs = ops.reshape(
                pairs, (-1, query_size, context_size, queries, contexts)
            )
            pairs = ops.transpose(pairs, (0, 1, 3, 2, 4))
            shape = table.shape[: 3 + axis]
            table = ops.reshape(
                pairs,
                (*shape, query_size * queries * context_size * contexts),
            )
        else:
            pairs = ops.reshape(
                pairs,
                (depths[0], -1, query_size, context_size, queries, contexts),
            )
            table = ops.transpose(pairs, (0, 2, 4, 1, 3, 5))
        queries *= query_size
        contexts *= context_size
    groups, key_dim, intra_depth = depths
    return ops.reshape(table, (groups, queries, key_dim, intra_depth, contexts))


def find_bands(scope, center, block_rows, context_rows, strides, blocks):
    """Finds the rows of the context that each block of query rows sees.

    Args:
        scope: number of offsets on the axis of the rows.
        center: index of the offset 0 among them.
        block_rows: rows of the query grid in a block.
        context_rows: rows of the context's grid.
        strides: steps of the two grids.
        blocks: number of blocks from the first row on.

    Returns:
        The `Band` of each block, and how many offsets from a block's first
        row there are in all of them.
    """
    step = block_rows * strides.query
    # At least one context row, though its embeddings may be zero.
    before = max(center, strides.context - 1)
    after = scope - 1 - center + step - strides.query
    first = -min(before, (blocks - 1) * step)
    last = min(after, (context_rows - 1) * strides.context)
    bands = []
    for block in range(blocks):
        start = max(-(-(block * step + first) // strides.context), 0)
        end = min((block * step + last) // strides.context, context_rows - 1)
        offset = start * strides.context - block * step - first
        bands.append(Band(offset, start, end + 1 - start))
    return bands, last - first + 1


def find_causal_offsets(scopes):
    """Marks the offsets that point at the query itself or before it.

    Args:
        scopes: odd numbers of offsets, one an axis of the grid.

    Returns:
        NumPy bools of shape `scopes`, in row-major order of the positions.
    """
    centers = tuple(scope // 2 for scope in scopes)
    before = [
        index <= centers for index in itertools.product(*map(range, scopes))
    ]
    return np.reshape(before, scopes)


def find_visible(query_grid, context_grid, *, causal, reach, strides):
    """Marks which context positions a query sees by position alone.

    Args:
        query_grid: sizes of the grid of the queries.
        context_grid: sizes of the grid of the context.
        causal: whether a query sees only positions up to its own.
        reach: how far a query sees on each axis, in units of the finer grid.
            `None` for everywhere.
        strides: steps of the two grids.

    Returns:
        Bools, `(1, n, m)`.
    """
    queries = _list_positions(query_grid)[:, None]  # (n, 1, rank)
    contexts = _list_positions(context_grid)[None]  # (1, m, rank)
    distances = ops.abs(queries * strides.query - contexts * strides.context)
    visible = ops.all(distances >= 0, axis=-1)
    if reach is not None:
        visible = ops.all(distances <= reach, axis=-1)
    if causal:
        count, context_count = ops.shape(visible)
        numbers = ops.arange(count)[:, None]
        visible = visible & (numbers >= ops.arange(context_count))
    return visible[None]


def _shift_rows(table, count, step):
    """Lays down a table once a query, each time shifted by a step.

    Args:
        table: `(outer, offsets, inner)`.
        count: number of queries.
        step: offsets from one query to the next.

    Returns:
        `(outer, count, offsets - (count - 1) * step, inner)`: the last query
        begins at the table's first offset.
    """
    outer, offsets, inner = table.shape
    if count == 1:
        return ops.expand_dims(table, 1)
    # Laying the table down with a step of blanks between, then reading the
    # same numbers in rows a step shorter, shifts it without a gather.
    rows = ops.pad(table, [(0, 0), (0, step), (0, 0)])
    rows = ops.broadcast_to(
        ops.expand_dims(rows, 1), (outer, count, offsets + step, inner)
    )
    rows = ops.reshape(rows, (outer, count * (offsets + step), inner))
    start = (count - 1) * step
    # `ops.slice`, because the gradient of indexing is slower.
    rows = ops.slice(rows, (0, start, 0), (outer, count * offsets, inner))
    rows = ops.reshape(rows, (outer, count, offsets, inner))
    return ops.slice(
        rows, (0, 0, 0, 0), (outer, count, offsets - start, inner)
    )


def _list_positions(grid):
    axes = ops.meshgrid(*(ops.arange(size) for size in grid), indexing="ij")
    return ops.stack([ops.reshape(axis, (-1,)) for axis in axes], axis=-1)
