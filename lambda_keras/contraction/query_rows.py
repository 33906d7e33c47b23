"""Position lambdas, some rows of queries at a time.

A block of query rows sees a band of context rows, those within the scope, and
takes the embeddings of all its pairs with the same indices as any other block.
The blocks come one after the other, and the gradient computes the weights of a
block anew, so that memory does not grow with the number of blocks.

The axis key of `functional.py` holds here, with `n` and `m` for the positions
of a block and of its band.
"""

import math
from typing import NamedTuple

from keras import ops

from lambda_keras.contraction.offsets import Geometry
from lambda_keras.contraction.offsets import count_offsets
from lambda_keras.contraction.offsets import find_bands
from lambda_keras.contraction.offsets import index_pairs
from lambda_keras.contraction.offsets import take_offsets
from lambda_keras.contraction.scheduling import add_to_last
from lambda_keras.contraction.scheduling import follow
from lambda_keras.contraction.scheduling import slice_after

# TensorFlow makes constants of what each block does with indices that are
# constants, which is faster, and keeps them all. So many numbers may stay (16
# MiB); more are made to depend on an input, so that nothing is computed of
# them ahead of time.
_MOST_CONSTANTS = 2**22


def contract(queries, values, table, geometry, block_rows):
    """Applies each query's own lambda.

    n m j (k + v) multiply-adds per block and example.

    Args:
        queries: `(b, n, j, k)`.
        values: `(b, m, u, v)`.
        table: `(scope_1, ..., u, k)`, with just the offsets that the grids
            reach on each axis but the first.
        geometry: a `Geometry`.
        block_rows: rows of the query grid that are taken at once.

    Returns:
        `(b, n, j, v)`.
    """
    _, positions, shared, _ = queries.shape
    layout = _lay_out(table, shared, geometry, block_rows)
    queries = _to_blocks(queries, layout)
    values = _flatten_context(values)
    # Zeros around the table once rather than around the slice of each block.
    table = take_offsets(table, 0, layout.first, layout.last)
    indices = layout.index_bands(table)
    outputs = []
    for block, band in enumerate(layout.bands):
        # Two blocks at once: while one waits for memory, one computes.
        embeddings = _take_embeddings(
            table, band, layout, indices, outputs[:-1]
        )
        weights = ops.matmul(queries[block], ops.swapaxes(embeddings, 1, 2))
        weights = _to_examples(weights, shared)
        outputs.append(ops.matmul(weights, _take_values(values, band, layout)))
    outputs = ops.concatenate(outputs, axis=1)
    outputs = outputs[:, : positions * shared]
    return ops.reshape(outputs, (-1, positions, shared, values.shape[-1]))


def differentiate(queries, values, table, upstream, geometry, block_rows):
    """Returns the gradients for queries, values and table.

    Args:
        upstream: gradient for the outputs, `(b, n, j, v)`; the others are
            those of `contract`.

    Returns:
        The three, each in the shape of what it is for.
    """
    _, positions, shared, key_dim = queries.shape
    layout = _lay_out(table, shared, geometry, block_rows)
    tensors = _to_blocks(queries, layout)
    by_queries, by_values, by_table = _differentiate_blocks(
        tensors,
        _flatten_context(values),
        take_offsets(table, 0, layout.first, layout.last),
        _flatten_context(_pad_positions(upstream, layout)),
        layout,
    )
    by_queries = ops.stack(by_queries)
    by_queries = ops.reshape(
        by_queries, (*by_queries.shape[:2], -1, shared, key_dim)
    )
    by_queries = ops.transpose(by_queries, (2, 0, 1, 3, 4))
    by_queries = ops.reshape(
        by_queries, (-1, math.prod(tensors.shape[:2]), shared, key_dim)
    )
    start = -layout.first
    return (
        by_queries[:, :positions],
        ops.reshape(by_values, (-1, *values.shape[1:])),
        take_offsets(by_table, 0, start, start + table.shape[0]),
    )


class _Layout(NamedTuple):
    """What the blocks have in common.

    Attributes:
        bands: what each block sees; offsets are rows of the table between
            the first and the last.
        first: index of the first row of the table that any band has.
        last: index after the last.
        block_grid: sizes of the grid of a block.
        geometry: where queries, context and offsets lie.
        shared: queries that share a lambda.
    """

    bands: list
    first: int
    last: int
    block_grid: tuple
    geometry: Geometry
    shared: int

    def count_table_rows(self, band):
        """Returns how many offsets of the rows a band has."""
        strides = self.geometry.strides
        return count_offsets(self.block_grid[0], band.count, strides)

    def index_bands(self, table):
        """Returns, by their counts of rows, each pair's place in the table."""
        indices = {
            count: ops.convert_to_tensor(
                index_pairs(
                    self.block_grid,
                    (count, *self.geometry.context_grid[1:]),
                    self.geometry.strides,
                )
            )
            for count in {band.count for band in self.bands}
        }
        size = max(math.prod(pairs.shape) for pairs in indices.values())
        if size * len(self.bands) < _MOST_CONSTANTS:
            return indices
        return {count: follow(table, pairs) for count, pairs in indices.items()}


def _lay_out(table, shared, geometry, block_rows):
    """Finds what each block sees."""
    rows, *columns = geometry.query_grid
    bands = find_bands(
        table.shape[0],
        geometry.centers[0],
        block_rows,
        geometry.context_grid[0],
        geometry.strides,
        math.ceil(rows / block_rows),
    )
    layout = _Layout(bands, 0, 0, (block_rows, *columns), geometry, shared)
    first = min(band.offset for band in bands)
    last = max(band.offset + layout.count_table_rows(band) for band in bands)
    bands = [band._replace(offset=band.offset - first) for band in bands]
    return layout._replace(bands=bands, first=first, last=last)


def _pad_positions(tensor, layout):
    """Pads `(b, n, ...)` to whole blocks."""
    positions = len(layout.bands) * math.prod(layout.block_grid)
    return take_offsets(tensor, 1, 0, positions)


def _to_blocks(queries, layout):
    """Brings `(b, blocks n, j, k)` to `(blocks, n, b j, k)`.

    All examples meet the embeddings of a position in one matrix product.
    """
    *_, shared, key_dim = queries.shape
    blocks, width = len(layout.bands), math.prod(layout.block_grid)
    queries = _pad_positions(queries, layout)
    queries = ops.reshape(queries, (-1, blocks, width, shared, key_dim))
    queries = ops.transpose(queries, (1, 2, 0, 3, 4))
    return ops.reshape(queries, (blocks, width, -1, key_dim))


def _flatten_context(values):
    """Brings `(b, m, u, v)` to `(b, m u, v)`."""
    _, context, intra_depth, value_dim = values.shape
    return ops.reshape(values, (-1, context * intra_depth, value_dim))


def _differentiate_blocks(queries, values, table, upstream, layout):
    """Differentiates block after block; the gradients stay in blocks."""
    by_queries, by_values, by_table = [], [], []
    indices = layout.index_bands(table)
    size = queries.shape[1] * layout.shared
    for block, band in enumerate(layout.bands):
        block_queries = queries[block]
        embeddings = _take_embeddings(table, band, layout, indices, by_table)
        block_values = _take_values(values, band, layout, by_values)
        start = block * size
        block_upstream = slice_after(
            upstream, 1, start, start + size, by_queries
        )

        # Made anew: kept from the forward pass they would be all pairs.
        weights = ops.matmul(block_queries, ops.swapaxes(embeddings, 1, 2))
        weights = _to_examples(weights, layout.shared)
        gradient = ops.matmul(ops.swapaxes(weights, 1, 2), block_upstream)
        gradient = _put_values(gradient, band, layout, values.shape)
        # The sum so far, and not the terms, so that each can be let go.
        by_values.append(add_to_last(by_values, gradient))

        weights = ops.matmul(block_upstream, ops.swapaxes(block_values, 1, 2))
        weights = _to_positions(weights, layout.shared)
        by_queries.append(ops.matmul(weights, embeddings))
        gradient = ops.matmul(ops.swapaxes(weights, 1, 2), block_queries)
        gradient = _put_embeddings(gradient, band, layout, indices, table.shape)
        by_table.append(add_to_last(by_table, gradient))
    return by_queries, by_values[-1], by_table[-1]


def _take_embeddings(table, band, layout, indices, outputs):
    """Returns the embeddings of a band, `(n, m u, k)`."""
    *_, intra_depth, key_dim = table.shape
    indices = indices[band.count]
    # A slice of the table, so that all blocks take it with the same indices.
    stop = band.offset + layout.count_table_rows(band)
    table = slice_after(table, 0, band.offset, stop, outputs)
    table = ops.reshape(table, (-1, intra_depth * key_dim))
    embeddings = ops.take(table, indices, axis=0)
    return ops.reshape(embeddings, (indices.shape[0], -1, key_dim))


def _put_embeddings(gradient, band, layout, indices, shape):
    """Transpose of `_take_embeddings`."""
    _, *columns, intra_depth, key_dim = shape
    rows = layout.count_table_rows(band)
    table = ops.segment_sum(
        ops.reshape(gradient, (-1, intra_depth * key_dim)),
        ops.reshape(indices[band.count], (-1,)),
        num_segments=rows * math.prod(columns),
    )
    table = ops.reshape(table, (rows, *columns, intra_depth, key_dim))
    return take_offsets(table, 0, -band.offset, shape[0] - band.offset)


def _take_values(values, band, layout, outputs=()):
    """Returns the values of a band, `(b, m u, v)`."""
    row = values.shape[1] // layout.geometry.context_grid[0]
    start, stop = band.start * row, (band.start + band.count) * row
    return slice_after(values, 1, start, stop, outputs)


def _put_values(gradient, band, layout, shape):
    """Transpose of `_take_values`."""
    row = shape[1] // layout.geometry.context_grid[0]
    start = -band.start * row
    return take_offsets(gradient, 1, start, start + shape[1])


def _to_examples(weights, shared):
    """Brings `(n, b j, m)` to `(b, n j, m)`."""
    positions, _, context = weights.shape
    weights = ops.reshape(weights, (positions, -1, shared * context))
    weights = ops.transpose(weights, (1, 0, 2))
    return ops.reshape(weights, (-1, positions * shared, context))


def _to_positions(weights, shared):
    """Brings `(b, n j, m)` to `(n, b j, m)`."""
    _, outputs, context = weights.shape
    positions = outputs // shared
    weights = ops.reshape(weights, (-1, positions, shared * context))
    weights = ops.transpose(weights, (1, 0, 2))
    return ops.reshape(weights, (positions, -1, context))
