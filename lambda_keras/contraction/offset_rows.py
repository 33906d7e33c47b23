"""Position lambdas, some rows of offsets at a time.

All pairs of a query row and a context row that lie equally far apart have the
same embeddings, which a block of such pairs needs only once, and whose
gradient is a matrix product. In return the values, outputs and their gradients
are moved once for each block.

The context's rows are a ring, which turns on from block to block. In a block
each query row meets the row that has come to its place, and the next ones if
the block has several rows of offsets. Where all rows of the context are in
reach they are all of the ring, here four of them:

    block  query rows  meet context rows  at offsets
        0  0, 1, 2, 3         0, 1, 2, 3   0,  0,  0,  0
        1  0, 1, 2, 3         1, 2, 3, 0   1,  1,  1, -3
        2  0, 1, 2, 3         2, 3, 0, 1   2,  2, -2, -2
        3  0, 1, 2, 3         3, 0, 1, 2   3, -1, -1, -1

A query row meets a row ahead of it until the ring has come round, and after
that one behind it, at another offset. So each pair of rows meets once, and a
block has embeddings for either side, side by side in the channels, of which
each query has zeros in one. That doubles the multiply-adds of the products
with queries, which run at a better rate with 32 channels than with 16. Where
not all rows are in reach, zeros close the ring, and there is one side. Either
way all blocks have the same shapes, and are one loop: neither the computation
nor its memory grows with their number.

Both grids have the same steps. An axis `c` counts a grid's columns, the
positions of a row, `o` the rows of offsets of a block, and `s` the sides; for
the others see `functional.py`.
"""

import math
from typing import NamedTuple

import numpy as np
from keras import ops

from lambda_keras.contraction.offsets import Strides
from lambda_keras.contraction.offsets import count_offsets
from lambda_keras.contraction.offsets import index_pairs
from lambda_keras.contraction.offsets import take_offsets
from lambda_keras.contraction.scheduling import follow
from lambda_keras.functional import find_sizes

# The gradient makes two sets of weights for a block, both at once if they are
# fewer numbers than this (8 MiB, about what stays near a processor): then
# TensorFlow computes them side by side. Larger ones are the peak of a step's
# memory, so that the second set waits until the first is no longer needed.
_LARGE = 2**21


class Ring(NamedTuple):
    """How the rows of a context pass by the rows of queries.

    Attributes:
        rows: rows of queries.
        ring_rows: rows of the ring, at least as many.
        first: index of the context row that the first query row meets first;
            rows before the context's are zeros.
        offset_rows: rows of offsets of a block.
        blocks: number of blocks.
        sides: 2 where a query row meets rows ahead and then rows behind, or 1.
    """

    rows: int
    ring_rows: int
    first: int
    offset_rows: int
    blocks: int
    sides: int


def make_ring(scope, geometry, offset_rows):
    """Lays out the rows of offsets between two grids.

    Args:
        scope: number of the table's rows of offsets.
        geometry: a `Geometry` without strides.
        offset_rows: rows of offsets to take at once.

    Returns:
        A `Ring`, with fewer rows of offsets at once if there are not so many.
    """
    center = geometry.centers[0]
    rows, context_rows = geometry.query_grid[0], geometry.context_grid[0]
    first = max(-center, 1 - rows)
    offsets = min(scope - center, context_rows) - first
    most = max(rows, context_rows)
    sides = 1 if offsets <= most else 2
    offsets = min(offsets, most)
    offset_rows = min(offset_rows, offsets)
    blocks = math.ceil(offsets / offset_rows)
    if sides == 2:
        return Ring(rows, most, 0, offset_rows, blocks, sides)
    # As many rows as the last block's last query row looks ahead: nothing
    # comes round before the end, so that no row is met twice.
    ring_rows = rows + offset_rows * blocks - 1
    return Ring(rows, ring_rows, first, offset_rows, blocks, sides)


def contract(queries, values, table, geometry, offset_rows):
    """Applies each query's own lambda.

    Args:
        queries: `(b, n, j, k)`.
        values: `(b, m, u, v)`.
        table: `(scope_1, ..., u, k)`, with just the offsets that the grids
            reach on each axis but the first.
        geometry: a `Geometry` without strides.
        offset_rows: rows of offsets that are taken at once.

    Returns:
        `(b, n, j, v)`.
    """
    _, positions, shared, _ = queries.shape
    value_dim = values.shape[-1]
    ring = make_ring(table.shape[0], geometry, offset_rows)
    table = _to_blocks(table, geometry, ring)
    indices = _index_embeddings(geometry, ring)
    queries = _to_sides(queries, ring)
    channels = queries.shape[-1]
    context = _to_ring(values, geometry, ring)
    width = positions // ring.rows * shared
    shape = (ops.shape(values)[0], ring.rows, width, value_dim)

    def add_block(block, state):
        context, outputs = state
        embeddings = _take_embeddings(table, block, indices, channels)
        block_queries = _take_queries(queries, block, ring)
        weights = ops.matmul(block_queries, ops.swapaxes(embeddings, 2, 3))
        weights = _to_rows(weights, shared, ring)
        outputs = outputs + ops.matmul(weights, _take_windows(context, ring))
        return _turn(context, ring), outputs

    state = context, ops.zeros(shape, values.dtype)
    _, outputs = _repeat(add_block, state, ring)
    return ops.reshape(outputs, (-1, positions, shared, value_dim))


def differentiate(queries, values, table, upstream, geometry, offset_rows):
    """Returns the gradients for queries, values and table.

    Args:
        upstream: gradient for the outputs, `(b, n, j, v)`; the others are
            those of `contract`.

    Returns:
        The three, each in the shape of what it is for.
    """
    _, positions, shared, _ = queries.shape
    ring = make_ring(table.shape[0], geometry, offset_rows)
    blocks = _to_blocks(table, geometry, ring)
    indices = _index_embeddings(geometry, ring)
    sides = _to_sides(queries, ring)
    channels = sides.shape[-1]
    context = _to_ring(values, geometry, ring)
    width = positions // ring.rows * shared
    upstream = ops.reshape(upstream, (-1, ring.rows, width, upstream.shape[-1]))
    weights_count = ring.rows * width * ring.offset_rows * context.shape[2]
    (batch,) = find_sizes(queries.shape[:1])
    is_large = (batch or 1) * weights_count >= _LARGE

    def add_block(block, state):
        context, by_context, by_queries, by_blocks = state
        embeddings = _take_embeddings(blocks, block, indices, channels)
        block_queries = _take_queries(sides, block, ring)

        weights = ops.matmul(block_queries, ops.swapaxes(embeddings, 2, 3))
        weights = _to_rows(weights, shared, ring)
        gradient = ops.matmul(ops.swapaxes(weights, 2, 3), upstream)
        by_context = by_context + _put_windows(gradient, context.shape, ring)

        # The weights are no longer needed when `by_context` is there.
        ready = by_context if is_large else None
        windows = _take_windows(context, ring, ready)
        weights = ops.matmul(upstream, ops.swapaxes(windows, 2, 3))
        weights = _to_columns(weights, shared, ring)
        gradient = ops.matmul(weights, embeddings)
        gradient = _put_queries(gradient, block, by_queries.shape, ring)
        by_queries = by_queries + gradient
        gradient = ops.matmul(ops.swapaxes(weights, 2, 3), block_queries)
        gradient = _put_embeddings(gradient, blocks.shape, indices)
        # A queue rather than an update in place, which not every backend has.
        by_blocks = ops.concatenate([by_blocks[1:], gradient])
        context, by_context = _turn(context, ring), _turn(by_context, ring)
        return context, by_context, by_queries, by_blocks

    by_queries = _to_columns_first(ops.zeros_like(queries), ring)
    state = context, ops.zeros_like(context), by_queries, ops.zeros_like(blocks)
    _, by_context, by_queries, by_blocks = _repeat(add_block, state, ring)
    return (
        _from_columns_first(by_queries, queries.shape, ring),
        _from_ring(by_context, values.shape, geometry, ring),
        _from_blocks(by_blocks, table.shape, geometry, ring),
    )


def _repeat(add_block, state, ring):
    """Adds block after block, each when the last is all there."""
    # A loop of one turn would only add its overhead.
    if ring.blocks == 1:
        return add_block(0, state)

    def follow_block(block, state):
        # TensorFlow starts a turn as soon as its counter is there, and would
        # hold the embeddings of many at once.
        block = ops.convert_to_tensor(block, "int32")
        return add_block(follow(state[-1], block), state)

    return ops.fori_loop(0, ring.blocks, follow_block, state)


def _to_columns_first(queries, ring):
    """Brings `(b, rows c, j, k)` to `(c, rows, b j, k)`."""
    _, positions, shared, key_dim = queries.shape
    columns = positions // ring.rows
    queries = ops.reshape(queries, (-1, ring.rows, columns, shared * key_dim))
    queries = ops.transpose(queries, (2, 1, 0, 3))
    return ops.reshape(queries, (columns, ring.rows, -1, key_dim))


def _from_columns_first(gradient, shape, ring):
    """Transpose of `_to_columns_first`."""
    columns = gradient.shape[0]
    _, positions, shared, key_dim = shape
    gradient = ops.reshape(gradient, (columns, ring.rows, -1, shared * key_dim))
    gradient = ops.transpose(gradient, (2, 1, 0, 3))
    return ops.reshape(gradient, (-1, positions, shared, key_dim))


def _to_sides(queries, ring):
    """Brings `(b, rows c, j, k)` to `(c, s rows, b j, s k)`.

    A row is there for each side on which it may meet the context, with its
    queries in the channels of that side and zeros in the others.
    """
    queries = _to_columns_first(queries, ring)
    columns, rows, _, key_dim = queries.shape
    queries = ops.reshape(queries, (columns, 1, rows, -1, 1, key_dim))
    sides = ops.eye(ring.sides, dtype=queries.dtype)
    queries = queries * ops.reshape(sides, (ring.sides, 1, 1, ring.sides, 1))
    return ops.reshape(
        queries, (columns, ring.sides * rows, -1, ring.sides * key_dim)
    )


def _find_sides(block, ring):
    """Returns the side on which each query row meets its, `(o, rows)`."""
    places = np.arange(ring.offset_rows, dtype="int32")[:, None]
    places = places + np.arange(ring.rows, dtype="int32")
    places = ops.add(places, block * ring.offset_rows)
    return ops.cast(places >= ring.ring_rows, "int32")


def _take_queries(sides, block, ring):
    """Returns the queries of a block, `(c, o, rows b j, s k)`."""
    rows = np.arange(ring.rows, dtype="int32")
    rows = ops.add(rows, _find_sides(block, ring) * ring.rows)
    queries = ops.take(sides, rows, axis=1)
    columns, channels = sides.shape[0], sides.shape[-1]
    return ops.reshape(queries, (columns, ring.offset_rows, -1, channels))


def _put_queries(gradient, block, shape, ring):
    """Transpose of `_take_queries` and `_to_sides`.

    Args:
        gradient: `(c, o, rows b j, s k)`.
        shape: of the result, `(c, rows, b j, k)`.
    """
    columns, rows, _, key_dim = shape
    size = (columns, ring.offset_rows, rows, -1, key_dim)
    # Only the side on which a row met its context counts: for the others its
    # queries were zeros, but their gradient is not.
    if ring.sides == 2:
        gradient = ops.reshape(gradient, (columns, -1, key_dim))
        count = ops.shape(gradient)[1] // 2
        sides = ops.reshape(_find_sides(block, ring), (-1, 1))
        indices = ops.reshape(2 * ops.arange(count), (sides.shape[0], -1))
        # Not `ops.add`: Keras 3.15 takes a column for a bias of the last axis
        # on TensorFlow, where the two are equally long.
        indices = indices + sides
        gradient = ops.take(gradient, indices, axis=1)
    return ops.sum(ops.reshape(gradient, size), axis=1)


def _to_blocks(table, geometry, ring):
    """Brings `(scope_1, ..., u, k)` to `(blocks, o offsets, u s k)`."""
    center = geometry.centers[0]
    intra_depth = table.shape[-2]
    count = ring.blocks * ring.offset_rows
    # Blocks are whole, so that the last one may reach beyond the table.
    start = center + ring.first
    sides = [take_offsets(table, 0, start, start + count)]
    if ring.sides == 2:
        start = center - ring.ring_rows
        sides.append(take_offsets(table[:center], 0, start, start + count))
    sides = ops.concatenate(sides, axis=-1)
    return ops.reshape(sides, (ring.blocks, -1, intra_depth * sides.shape[-1]))


def _from_blocks(gradient, shape, geometry, ring):
    """Transpose of `_to_blocks`."""
    scope, center = shape[0], geometry.centers[0]
    *offsets, intra_depth, key_dim = shape[1:]
    count = ring.blocks * ring.offset_rows
    sides = ops.reshape(
        gradient, (count, *offsets, intra_depth, ring.sides * key_dim)
    )
    start = -center - ring.first
    total = take_offsets(sides[..., :key_dim], 0, start, start + scope)
    if ring.sides == 2:
        behind = sides[: ring.ring_rows, ..., key_dim:]
        start = ring.ring_rows - center
        total = total + take_offsets(behind, 0, start, start + scope)
    return total


def _index_embeddings(geometry, ring):
    """Lists which of a block's offsets each pair has, `(c, o, c)`."""
    _, *columns = geometry.query_grid
    _, *context_columns = geometry.context_grid
    pairs = index_pairs(columns, context_columns, Strides())
    offsets = math.prod(
        count_offsets(size, context_size, Strides())
        for size, context_size in zip(columns, context_columns, strict=True)
    )
    rows = np.arange(ring.offset_rows, dtype="int32")[:, None]
    return rows * offsets + pairs[:, None]


def _take_embeddings(blocks, block, indices, channels):
    """Returns the embeddings of a block, `(c, o, c u, s k)`."""
    table = ops.take(blocks, block, axis=0)
    embeddings = ops.take(table, indices, axis=0)
    return ops.reshape(embeddings, (*indices.shape[:2], -1, channels))


def _put_embeddings(gradient, shape, indices):
    """Transpose of `_take_embeddings`, as one block of the shape."""
    _, offsets, depths = shape
    gradient = ops.segment_sum(
        ops.reshape(gradient, (-1, depths)),
        np.reshape(indices, (-1,)),
        num_segments=offsets,
    )
    return ops.reshape(gradient, (1, offsets, depths))


def _to_ring(values, geometry, ring):
    """Brings `(b, context_rows c, u, v)` to `(b, ring_rows, c u, v)`."""
    _, context, intra_depth, value_dim = values.shape
    rows = geometry.context_grid[0]
    values = ops.reshape(
        values, (-1, rows, context * intra_depth // rows, value_dim)
    )
    return take_offsets(values, 1, ring.first, ring.first + ring.ring_rows)


def _from_ring(gradient, shape, geometry, ring):
    """Transpose of `_to_ring` and of all turns."""
    turned = ring.blocks * ring.offset_rows % ring.ring_rows
    gradient = ops.roll(gradient, turned, axis=1)
    rows = geometry.context_grid[0]
    gradient = take_offsets(gradient, 1, -ring.first, rows - ring.first)
    return ops.reshape(gradient, (-1, *shape[1:]))


def _turn(context, ring):
    """Turns the ring on to the next block."""
    return ops.roll(context, -ring.offset_rows, axis=1)


def _index_windows(ring):
    """Lists the places of the ring that each query row meets, `(rows, o)`."""
    places = np.arange(ring.rows, dtype="int32")[:, None]
    places = places + np.arange(ring.offset_rows, dtype="int32")
    return places % ring.ring_rows


def _take_windows(context, ring, ready=None):
    """Returns what each query row meets, `(b, rows, o c u, v)`.

    Args:
        ready: a tensor to wait for.
    """
    width = ring.offset_rows * context.shape[2]
    places = _index_windows(ring)
    if ready is not None:
        places = follow(ready, ops.convert_to_tensor(places))
    windows = ops.take(context, places, axis=1)
    return ops.reshape(windows, (-1, ring.rows, width, context.shape[-1]))


def _put_windows(gradient, shape, ring):
    """Transpose of `_take_windows`."""
    _, _, context, value_dim = shape
    places = np.reshape(_index_windows(ring), (-1,))
    size = (-1, len(places), context * value_dim)
    # Only the first axis can be summed by segments, so the places come first.
    gradient = ops.swapaxes(ops.reshape(gradient, size), 0, 1)
    gradient = ops.segment_sum(
        ops.reshape(gradient, (len(places), -1)),
        places,
        num_segments=ring.ring_rows,
    )
    size = (ring.ring_rows, -1, context * value_dim)
    gradient = ops.swapaxes(ops.reshape(gradient, size), 0, 1)
    return ops.reshape(gradient, (-1, ring.ring_rows, context, value_dim))


def _to_rows(weights, shared, ring):
    """Brings `(c, o, rows b j, m)` to `(b, rows, c j, o m)`."""
    columns, _, _, context = weights.shape
    weights = ops.reshape(
        weights,
        (columns, ring.offset_rows, ring.rows, -1, shared, context),
    )
    weights = ops.transpose(weights, (3, 2, 0, 4, 1, 5))
    return ops.reshape(
        weights,
        (-1, ring.rows, columns * shared, ring.offset_rows * context),
    )


def _to_columns(weights, shared, ring):
    """Brings `(b, rows, c j, o m)` to `(c, o, rows b j, m)`."""
    _, rows, outputs, context = weights.shape
    columns, context = outputs // shared, context // ring.offset_rows
    weights = ops.reshape(
        weights, (-1, rows, columns, shared, ring.offset_rows, context)
    )
    weights = ops.transpose(weights, (2, 4, 1, 0, 3, 5))
    return ops.reshape(weights, (columns, ring.offset_rows, -1, context))
