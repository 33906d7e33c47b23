"""Tables with one embedding per offset, and what lies at which offset.

A query at position `x` of its axis and a context position `y` of the same axis
have the offset `y * strides.context - x * strides.query`.
"""

import math
from typing import NamedTuple

import numpy as np
from keras import ops


class Strides(NamedTuple):
    """Steps of two grids that cover the same ground, in units of the finer."""

    query: int = 1
    context: int = 1


def find_strides(context_scale):
    """Returns the `Strides` of a layer's `context_scale`.

    Raises:
        ValueError: If neither grid's step is a multiple of the other's.
    """
    if context_scale >= 1 and context_scale == int(context_scale):
        return Strides(query=int(context_scale), context=1)
    inverse = 1 / context_scale if context_scale > 0 else 0
    # One over a whole number, such as 1 / 3, is seldom exact.
    if inverse >= 1 and abs(inverse - round(inverse)) < 1e-6:
        return Strides(query=1, context=round(inverse))
    raise ValueError(
        "`context_scale` must be a whole number or one over a whole number, "
        "because the positions of one grid must lie on the other's. "
        f"Received: context_scale={context_scale}"
    )


class Geometry(NamedTuple):
    """Where queries, context and offsets lie.

    Attributes:
        query_grid: sizes of the grid of the queries.
        context_grid: sizes of the grid of the context.
        centers: index of the offset 0 on each axis of the table.
        strides: steps of the two grids.
    """

    query_grid: tuple
    context_grid: tuple
    centers: tuple
    strides: Strides


class Band(NamedTuple):
    """The rows of the context that a block of query rows sees.

    Attributes:
        offset: index in the table of the first of its offsets, which may lie
            outside.
        start: index of its first row.
        count: number of its rows.
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
    # Bounds are cut by hand: Python's slices count negative ones from the end.
    size = table.shape[axis]
    inside = slice(min(max(start, 0), size), max(min(stop, size), 0))
    padding = [(0, 0)] * len(table.shape)
    padding[axis] = (
        min(max(-start, 0), stop - start),
        min(max(stop - size, 0), stop - start),
    )
    table = table[(slice(None),) * axis + (inside,)]
    return ops.pad(table, padding) if np.any(padding) else table


def index_pairs(query_grid, context_grid, strides):
    """Lists where a table has the offset of each pair of positions.

    Args:
        query_grid: sizes of the grid of the queries.
        context_grid: sizes of the grid of the context.
        strides: steps of the two grids.

    Returns:
        NumPy integers, `(n, m)`: indices into the flattened axes of offsets of
        a table that has `count_offsets(...)` of them on each axis.
    """
    # Axis by axis in row-major order, as sizes of the grid are multiplied.
    # NumPy, so that a graph has constants and no arithmetic of indices.
    indices = np.zeros((1, 1), "int32")
    for size, context_size in zip(query_grid, context_grid, strict=True):
        queries = np.arange(size - 1, -1, -1, "int32") * strides.query
        contexts = np.arange(context_size, dtype="int32") * strides.context
        pairs = queries[:, None] + contexts
        indices = indices * count_offsets(size, context_size, strides)
        indices = indices[:, None, :, None] + pairs[:, None]
        indices = indices.reshape(
            indices.shape[0] * size, indices.shape[2] * context_size
        )
    return indices


def expand_pairs(table, geometry):
    """Makes the embeddings of all pairs of positions.

    Args:
        table: `(scope_1, ..., depths)`, with any number of depths.
        geometry: a `Geometry` of known sizes.

    Returns:
        `(n, m, depths)`, the paper's `E`; zero beyond the scope.
    """
    query_grid, context_grid, _, strides = geometry
    for axis in range(len(query_grid)):
        table = fit_offsets(table, axis, geometry)
    return take_pairs(table, query_grid, context_grid, strides)


def take_pairs(table, query_grid, context_grid, strides):
    """Takes `(n, m, depths)` from a table that has just their offsets."""
    indices = index_pairs(query_grid, context_grid, strides)
    depths = table.shape[len(query_grid) :]
    table = ops.reshape(table, (-1, math.prod(depths)))
    pairs = ops.take(table, indices, axis=0)
    return ops.reshape(pairs, (*indices.shape, *depths))


def fit_offsets(table, axis, geometry):
    """Cuts or zero-pads an axis of offsets to those that its grids reach."""
    query_grid, context_grid, centers, strides = geometry
    start = centers[axis] - (query_grid[axis] - 1) * strides.query
    count = count_offsets(query_grid[axis], context_grid[axis], strides)
    return take_offsets(table, axis, start, start + count)


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
        A list with the `Band` of each block.
    """
    # At least one context row, though its embeddings may be zero.
    before = max(center, strides.context - 1)
    after = scope - 1 - center + (block_rows - 1) * strides.query
    bands = []
    for block in range(blocks):
        row = block * block_rows * strides.query
        start = max(-((before - row) // strides.context), 0)
        start = min(start, context_rows - 1)
        end = min((row + after) // strides.context, context_rows - 1) + 1
        last_query = row + (block_rows - 1) * strides.query
        offset = center + start * strides.context - last_query
        bands.append(Band(offset, start, end - start))
    return bands
