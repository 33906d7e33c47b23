"""Position lambdas, some rows of offsets at a time.

All pairs of a query row and a context row that lie equally far apart have the
same embeddings. A block of such pairs needs them once, where a block of query
rows needs them once for each row, and sums the gradient for them in a matrix
product. In return the values, outputs and their gradients are moved once for
each row of offsets, which is more than what is saved where the batch is large.

Both grids have the same steps. An axis `c` counts a grid's columns, the
positions of a row, and `o` the rows of offsets of a block; for the others see
`functional.py`.
"""

import math
from typing import NamedTuple

import numpy as np
from keras import ops

from lambda_keras.offsets import Strides
from lambda_keras.offsets import count_offsets
from lambda_keras.offsets import index_pairs
from lambda_keras.offsets import take_offsets
from lambda_keras.scheduling import add_to_last
from lambda_keras.scheduling import slice_after


class Block(NamedTuple):
    """Rows of offsets, and the query rows that some of them lead from.

    Attributes:
        first: index in the table of the first of its rows of offsets.
        count: number of its rows of offsets.
        start: index of its first query row.
        stop: index after its last query row.
        context: index of the context row that the first row of offsets leads
            to from the first query row, which may lie outside.
    """

    first: int
    count: int
    start: int
    stop: int
    context: int

    @property
    def rows(self):
        """How many query rows there are."""
        return self.stop - self.start


def find_blocks(scope, center, rows, context_rows, offset_rows):
    """Divides the rows of offsets between two grids into blocks.

    Args:
        scope: number of the table's rows of offsets.
        center: index of the offset 0 among them.
        rows: rows of the query grid.
        context_rows: rows of the context's grid.
        offset_rows: rows of offsets to take at once.

    Returns:
        A list with a `Block` for each. Offsets that lead from no query into
        the context are in none.
    """
    first = max(center - rows + 1, 0)
    last = min(center + context_rows, scope)
    blocks = []
    for index in range(first, last, offset_rows):
        count = min(offset_rows, last - index)
        offset = index - center
        start = max(1 - offset - count, 0)
        stop = min(context_rows - offset, rows)
        blocks.append(Block(index, count, start, stop, start + offset))
    return blocks


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
    shape = (-1, *queries.shape[1:3], values.shape[-1])
    rows, shared = geometry.query_grid[0], queries.shape[2]
    blocks = _find_blocks(table, geometry, offset_rows)
    queries = _to_columns_first(queries, geometry)
    values = _to_context_rows(values, geometry)
    table = _flatten_columns(table)
    outputs = []
    for block in blocks:
        indices = _index_offsets(block, geometry)
        embeddings = _take_embeddings(table, block, indices, outputs)
        block_queries = _take_queries(queries, block, outputs)
        weights = ops.matmul(block_queries, ops.swapaxes(embeddings, 1, 2))
        weights = _to_rows(weights, block, shared)
        output = ops.matmul(weights, _take_windows(values, block, outputs))
        output = take_offsets(output, 1, -block.start, rows - block.start)
        outputs.append(add_to_last(outputs, output))
    return ops.reshape(outputs[-1], shape)


def differentiate(queries, values, table, upstream, geometry, offset_rows):
    """Returns the gradients for queries, values and table.

    Args:
        upstream: gradient for the outputs, `(b, n, j, v)`; the others are
            those of `contract`.

    Returns:
        The three, each in the shape of what it is for.
    """
    _, positions, shared, key_dim = queries.shape
    rows, *columns = geometry.query_grid
    width = math.prod(columns)
    blocks = _find_blocks(table, geometry, offset_rows)
    by_row, by_values, by_table = _differentiate_blocks(
        _to_columns_first(queries, geometry),
        _to_context_rows(values, geometry),
        _flatten_columns(table),
        ops.reshape(upstream, (-1, rows, width * shared, upstream.shape[-1])),
        [(block, _index_offsets(block, geometry)) for block in blocks],
    )
    by_row = ops.reshape(by_row, (width, rows, -1, shared * key_dim))
    by_row = ops.transpose(by_row, (2, 1, 0, 3))
    first, scope = blocks[0].first, table.shape[0]
    by_table = take_offsets(ops.concatenate(by_table), 0, -first, scope - first)
    return (
        ops.reshape(by_row, (-1, positions, shared, key_dim)),
        ops.reshape(by_values, (-1, *values.shape[1:])),
        ops.reshape(by_table, table.shape),
    )


def _differentiate_blocks(queries, values, table, upstream, blocks):
    """Differentiates block after block; that for the table stays in blocks."""
    columns, rows, _, shared, key_dim = queries.shape
    _, offsets, intra_depth, _ = table.shape
    by_queries, by_values, by_table = [], [], []
    for block, indices in blocks:
        embeddings = _take_embeddings(table, block, indices, by_table)
        block_queries = _take_queries(queries, block, by_queries)
        block_upstream = slice_after(
            upstream, 1, block.start, block.stop, by_queries
        )

        weights = ops.matmul(block_queries, ops.swapaxes(embeddings, 1, 2))
        weights = _to_rows(weights, block, shared)
        gradient = ops.matmul(ops.swapaxes(weights, 2, 3), block_upstream)
        gradient = _put_windows(gradient, block, values.shape)
        by_values.append(add_to_last(by_values, gradient))

        # The weights are no longer needed then.
        windows = _take_windows(values, block, by_values)
        weights = ops.matmul(block_upstream, ops.swapaxes(windows, 2, 3))
        weights = _to_columns(weights, columns, shared)
        gradient = ops.matmul(weights, embeddings)
        gradient = ops.reshape(
            gradient, (columns, block.rows, -1, shared, key_dim)
        )
        gradient = take_offsets(gradient, 1, -block.start, rows - block.start)
        by_queries.append(add_to_last(by_queries, gradient))
        gradient = ops.matmul(ops.swapaxes(weights, 1, 2), block_queries)
        gradient = ops.segment_sum(
            ops.reshape(gradient, (-1, intra_depth * key_dim)),
            np.reshape(indices, (-1,)),
            num_segments=block.count * offsets,
        )
        shape = (block.count, offsets, intra_depth, key_dim)
        by_table.append(ops.reshape(gradient, shape))
    return by_queries[-1], by_values[-1], by_table


def _find_blocks(table, geometry, offset_rows):
    return find_blocks(
        table.shape[0],
        geometry.centers[0],
        geometry.query_grid[0],
        geometry.context_grid[0],
        offset_rows,
    )


def _to_columns_first(queries, geometry):
    """Brings `(b, rows c, j, k)` to `(c, rows, b, j, k)`."""
    rows, *columns = geometry.query_grid
    _, _, shared, key_dim = queries.shape
    width = math.prod(columns)
    queries = ops.reshape(queries, (-1, rows, width, shared * key_dim))
    queries = ops.transpose(queries, (2, 1, 0, 3))
    return ops.reshape(queries, (width, rows, -1, shared, key_dim))


def _to_context_rows(values, geometry):
    """Brings `(b, context_rows c, u, v)` to `(b, context_rows, c u, v)`."""
    _, context, intra_depth, value_dim = values.shape
    rows = geometry.context_grid[0]
    return ops.reshape(
        values, (-1, rows, context * intra_depth // rows, value_dim)
    )


def _flatten_columns(table):
    """Brings `(scope_1, ..., u, k)` to `(scope_1, offsets, u, k)`."""
    return ops.reshape(table, (table.shape[0], -1, *table.shape[-2:]))


def _index_offsets(block, geometry):
    """Lists which of a block's offsets each pair has, `(c, o, c)`."""
    _, *columns = geometry.query_grid
    _, *context_columns = geometry.context_grid
    pairs = index_pairs(columns, context_columns, Strides())
    offsets = math.prod(
        count_offsets(size, context_size, Strides())
        for size, context_size in zip(columns, context_columns, strict=True)
    )
    return np.arange(block.count)[:, None] * offsets + pairs[:, None]


def _take_queries(queries, block, outputs):
    """Returns the queries of a block, `(c, rows b j, k)`."""
    queries = slice_after(queries, 1, block.start, block.stop, outputs)
    return ops.reshape(queries, (queries.shape[0], -1, queries.shape[-1]))


def _take_embeddings(table, block, indices, outputs):
    """Returns the embeddings of a block, `(c, o c u, k)`."""
    _, _, intra_depth, key_dim = table.shape
    stop = block.first + block.count
    table = slice_after(table, 0, block.first, stop, outputs)
    table = ops.reshape(table, (-1, intra_depth * key_dim))
    embeddings = ops.take(table, indices, axis=0)
    return ops.reshape(embeddings, (indices.shape[0], -1, key_dim))


def _take_windows(values, block, outputs):
    """Returns what each query row sees of the values, `(b, rows, o c u, v)`."""
    _, context_rows, context, value_dim = values.shape
    count = block.rows + block.count - 1
    start = max(block.context, 0)
    stop = min(block.context + count, context_rows)
    seen = slice_after(values, 1, start, stop, outputs)
    before = block.context - start
    seen = take_offsets(seen, 1, before, before + count)
    windows = ops.take(seen, _index_windows(block), axis=1)
    return ops.reshape(
        windows, (-1, block.rows, block.count * context, value_dim)
    )


def _put_windows(gradient, block, shape):
    """Is the transpose of `_take_windows`."""
    _, context_rows, context, value_dim = shape
    pairs = block.rows * block.count
    gradient = ops.reshape(gradient, (-1, pairs, context * value_dim))
    gradient = ops.swapaxes(gradient, 0, 1)
    rows = block.context + _index_windows(block)
    outside = (rows < 0) | (rows >= context_rows)
    gradient = ops.segment_sum(
        ops.reshape(gradient, (pairs, -1)),
        np.reshape(np.where(outside, context_rows, rows), (-1,)),
        num_segments=context_rows + 1,
    )
    gradient = gradient[:context_rows]
    gradient = ops.reshape(gradient, (context_rows, -1, context * value_dim))
    gradient = ops.swapaxes(gradient, 0, 1)
    return ops.reshape(gradient, (-1, context_rows, context, value_dim))


def _index_windows(block):
    """Lists which of the context rows in sight each query row sees."""
    return np.arange(block.rows)[:, None] + np.arange(block.count)


def _to_rows(weights, block, shared):
    """Brings `(c, rows b j, m)` to `(b, rows, c j, m)`."""
    columns, _, context = weights.shape
    rows = block.rows
    weights = ops.reshape(weights, (columns, rows, -1, shared * context))
    weights = ops.transpose(weights, (2, 1, 0, 3))
    return ops.reshape(weights, (-1, rows, columns * shared, context))


def _to_columns(weights, columns, shared):
    """Brings `(b, rows, c j, m)` to `(c, rows b j, m)`."""
    _, rows, _, context = weights.shape
    weights = ops.reshape(weights, (-1, rows, columns, shared * context))
    weights = ops.transpose(weights, (2, 1, 0, 3))
    return ops.reshape(weights, (columns, -1, context))
