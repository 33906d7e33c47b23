"""The orders in which position lambdas can be contracted.

Nothing stands between the two sums of

    y[b, n, j, v] = sum_k q[b, n, j, k] sum_mu E[n, m, u, k] V[b, m, u, v],

so that they may be taken in either order, and the embeddings `E`, of which
each stands for an offset, made in several ways. The functions here are equal
to each other, and so are their gradients; `cost_model.py` says which is the
cheapest. The axis key of `functional.py` holds here.

Reference:
    - [Bello, 2021](https://arxiv.org/abs/2102.08602), section 3
"""

import math
from typing import NamedTuple

from keras import ops

from lambda_keras.functional import flatten_grid
from lambda_keras.offsets import Strides
from lambda_keras.offsets import count_offsets
from lambda_keras.offsets import find_bands
from lambda_keras.offsets import index_pairs
from lambda_keras.offsets import take_offsets

# Kernels of one input channel that are wider take their gradient from a
# convolution: the native one is three times slower (oneDNN, AVX-512).
_WIDEST_NATIVE_KERNEL = 12
# TensorFlow makes constants of what each block does with indices that are
# constants, which is faster, and keeps them all. So many numbers may stay.
_MOST_CONSTANTS = 2**22
# Outputs that a strided convolution makes at once, by rank of the grid.
_TILES = {1: (16,), 2: (4, 4), 3: (2, 2, 4)}


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


def contract_position_lambdas(queries, values, table, centers, strides, plan):
    """Applies each query's own lambda.

    Args:
        queries: `(b, ..., g, j, k)`.
        values: `(b, ..., g, u, v)`.
        table: `(scope_1, ..., g, u, k)`, one embedding an offset. What lies
            beyond does not interact.
        centers: index of the offset 0 on each axis of the table.
        strides: steps of the two grids.
        plan: a `Plan` of `cost_model.choose_plan`.

    Returns:
        `(b, n, g, j, v)`.
    """
    grid, context_grid = ops.shape(queries)[1:-3], ops.shape(values)[1:-3]
    queries, values = flatten_grid(queries), flatten_grid(values)
    geometry = Geometry(grid, context_grid, tuple(centers), strides)
    outputs = [
        _contract_group(
            queries[:, :, group],
            values[:, :, group],
            table[..., group, :, :],
            geometry,
            plan,
        )
        for group in range(queries.shape[2])
    ]
    return ops.stack(outputs, axis=2)


def _contract_group(queries, values, table, geometry, plan):
    if plan.order == "convolution":
        return contract_by_convolution(
            queries, values, table, geometry.query_grid
        )
    if plan.order == "lambdas_first":
        return contract_lambdas_first(queries, values, table, geometry)
    return contract_queries_first(
        queries, values, table, geometry, plan.block_rows
    )


def contract_queries_first(queries, values, table, geometry, block_rows):
    """Applies position lambdas, the queries first, in blocks of rows.

    n m j (k + v) multiply-adds an example, where m is what the block's
    context rows hold, and no (b, n, k, v) tensor. The blocks come one after
    the other, and the gradient computes the weights of a block anew, so that
    memory does not grow with the number of blocks.

    Args:
        queries: `(b, n, j, k)`.
        values: `(b, m, u, v)`.
        table: `(scope_1, ..., u, k)`.
        geometry: a `Geometry`.
        block_rows: rows of the query grid that are taken at once.

    Returns:
        `(b, n, j, v)`.
    """
    rows, *columns = geometry.query_grid
    _, positions, shared, key_dim = queries.shape
    blocks = math.ceil(rows / block_rows)
    width = block_rows * math.prod(columns)
    missing = blocks * width - positions
    if missing:
        queries = ops.pad(queries, [(0, 0), (0, missing), (0, 0), (0, 0)])
    queries = ops.reshape(queries, (-1, blocks, width, shared, key_dim))
    queries = ops.transpose(queries, (1, 2, 0, 3, 4))
    queries = ops.reshape(queries, (blocks, width, -1, key_dim))
    values = ops.reshape(
        values, (-1, math.prod(values.shape[1:3]), values.shape[3])
    )
    table, layout = _lay_out_bands(table, geometry, block_rows, shared)
    outputs = _contract_bands(layout)(queries, values, table)
    outputs = ops.reshape(
        outputs, (-1, blocks * width, shared, values.shape[-1])
    )
    return outputs[:, :positions] if missing else outputs


def contract_lambdas_first(queries, values, table, geometry):
    """Applies position lambdas, the lambdas first, as a matrix product.

    n m k v multiply-adds an example and a (b, n, k, v) tensor: cheaper than
    the queries first where many of them share a lambda.

    Args:
        queries: `(b, n, j, k)`.
        values: `(b, m, u, v)`.
        table: `(scope_1, ..., u, k)`.
        geometry: a `Geometry`.

    Returns:
        `(b, n, j, v)`.
    """
    _, positions, _, key_dim = queries.shape
    _, context, intra_depth, value_dim = values.shape
    embeddings = expand_pairs(table, *geometry)
    embeddings = ops.transpose(embeddings, (1, 2, 0, 3))
    embeddings = ops.reshape(
        embeddings, (context * intra_depth, positions * key_dim)
    )
    values = ops.reshape(values, (-1, context * intra_depth, value_dim))
    values = ops.reshape(
        ops.swapaxes(values, 1, 2), (-1, context * intra_depth)
    )
    lambdas = ops.matmul(values, embeddings)
    lambdas = ops.reshape(lambdas, (-1, value_dim, positions, key_dim))
    return _apply_lambdas(queries, lambdas)


def contract_by_convolution(queries, values, table, grid):
    """Applies position lambdas, made first by a convolution.

    The lambda convolution of the paper (section 3.1): the value axis is an
    axis of space on which nothing is convolved. n r k v multiply-adds an
    example with the r offsets of the scope, and a (b, n, k, v) tensor.

    Args:
        queries: `(b, n, j, k)`.
        values: `(b, n, u, v)`.
        table: `(scope_1, ..., u, k)`, with odd scopes.
        grid: sizes of the grid, which may be unknown.

    Returns:
        `(b, n, j, v)`.
    """
    intra_depth, value_dim = values.shape[2:]
    # One kernel serves every value channel, so v travels in the batch.
    images = ops.transpose(values, (0, 3, 1, 2))
    images = ops.reshape(images, (-1, *grid, intra_depth))
    lambdas = _convolve(images, table)
    lambdas = ops.reshape(
        lambdas, (-1, value_dim, math.prod(grid), table.shape[-1])
    )
    return _apply_lambdas(queries, lambdas)


def expand_pairs(table, query_grid, context_grid, centers, strides):
    """Makes the embeddings of all pairs of positions.

    Args:
        table: `(scope_1, ..., depths)`, with any number of depths.
        query_grid: sizes of the grid of the queries.
        context_grid: sizes of the grid of the context.
        centers: index of the offset 0 on each axis of the table.
        strides: steps of the two grids.

    Returns:
        `(n, m, depths)`, the paper's `E`; zero beyond the scope.
    """
    for axis, center in enumerate(centers):
        table = _fit_offsets(
            table, axis, center, query_grid, context_grid, strides
        )
    return _expand(table, query_grid, context_grid, strides)


def _expand(table, query_grid, context_grid, strides):
    """Takes `(n, m, depths)` from a table that has just their offsets."""
    indices = index_pairs(query_grid, context_grid, strides)
    depths = table.shape[len(query_grid) :]
    table = ops.reshape(table, (-1, math.prod(depths)))
    pairs = ops.take(table, indices, axis=0)
    return ops.reshape(pairs, (*indices.shape, *depths))


def _fit_offsets(table, axis, center, query_grid, context_grid, strides):
    """Cuts or zero-pads an axis of offsets to those that its grids reach."""
    before = (query_grid[axis] - 1) * strides.query
    after = (context_grid[axis] - 1) * strides.context
    return take_offsets(table, axis, center - before, center + after + 1)


class _Layout(NamedTuple):
    """What the blocks have in common.

    Attributes:
        bands: what each block sees; offsets are rows of the table.
        block_grid: sizes of the grid of a block.
        context_grid: sizes of the grid of the context.
        strides: steps of the two grids.
        shared: queries that share a lambda.
    """

    bands: list
    block_grid: tuple
    context_grid: tuple
    strides: Strides
    shared: int

    def count_table_rows(self, band):
        """Returns how many offsets of the rows a band has."""
        return count_offsets(self.block_grid[0], band.count, self.strides)

    def index_bands(self, table):
        """Returns, by their counts of rows, each pair's place in the table."""
        indices = {
            count: ops.convert_to_tensor(
                index_pairs(
                    self.block_grid,
                    (count, *self.context_grid[1:]),
                    self.strides,
                )
            )
            for count in {band.count for band in self.bands}
        }
        size = max(math.prod(pairs.shape) for pairs in indices.values())
        if size * len(self.bands) < _MOST_CONSTANTS:
            return indices
        return {
            count: _follow(table, pairs) for count, pairs in indices.items()
        }


def _lay_out_bands(table, geometry, block_rows, shared):
    """Finds what each block sees, and fits the table to it."""
    rows, *columns = geometry.query_grid
    bands = find_bands(
        table.shape[0],
        geometry.centers[0],
        block_rows,
        geometry.context_grid[0],
        geometry.strides,
        math.ceil(rows / block_rows),
    )
    layout = _Layout(
        bands,
        (block_rows, *columns),
        geometry.context_grid,
        geometry.strides,
        shared,
    )
    first = min(band.offset for band in bands)
    last = max(band.offset + layout.count_table_rows(band) for band in bands)
    table = take_offsets(table, 0, first, last)
    for axis in range(1, len(layout.block_grid)):
        table = _fit_offsets(
            table,
            axis,
            geometry.centers[axis],
            geometry.query_grid,
            geometry.context_grid,
            geometry.strides,
        )
    bands = [band._replace(offset=band.offset - first) for band in bands]
    return table, layout._replace(bands=bands)


def _contract_bands(layout):
    """Returns the function that contracts block after block.

    Args:
        layout: a `_Layout`.

    Returns:
        A function of queries `(blocks, n, b j, k)`, values `(b, m u, v)` and
        a table `(offsets_1, ..., u, k)`, that returns `(b, blocks n j, v)`.
    """

    @ops.custom_gradient
    def contract(queries, values, table):
        outputs = []
        indices = layout.index_bands(table)
        for block, band in enumerate(layout.bands):
            # Two blocks at once: while one waits for memory, one computes.
            embeddings = _take_embeddings(
                _after(table, outputs[:-1]), band, layout, indices
            )
            weights = ops.matmul(queries[block], ops.swapaxes(embeddings, 1, 2))
            outputs.append(
                ops.matmul(
                    _to_examples(weights, layout.shared),
                    _take_values(values, band, layout),
                )
            )

        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return _differentiate_bands(
                queries, values, table, upstream, layout, indices
            )

        return ops.concatenate(outputs, axis=1), gradient

    return contract


def _differentiate_bands(queries, values, table, upstream, layout, indices):
    query_gradients, value_gradients, table_gradients = [], [], []
    size = queries.shape[1] * layout.shared
    for block, band in enumerate(layout.bands):
        block_queries = queries[block]
        embeddings = _take_embeddings(
            _after(table, table_gradients), band, layout, indices
        )
        block_values = _after(
            _take_values(values, band, layout), value_gradients
        )
        block_upstream = _after(
            upstream[:, block * size : (block + 1) * size], query_gradients
        )

        weights = ops.matmul(block_queries, ops.swapaxes(embeddings, 1, 2))
        weights = _to_examples(weights, layout.shared)
        gradient = ops.matmul(ops.swapaxes(weights, 1, 2), block_upstream)
        gradient = _put_values(gradient, band, layout, values.shape)
        value_gradients.append(_add_to_last(value_gradients, gradient))

        weights = ops.matmul(block_upstream, ops.swapaxes(block_values, 1, 2))
        weights = _to_positions(weights, layout.shared)
        query_gradients.append(ops.matmul(weights, embeddings))
        gradient = ops.matmul(ops.swapaxes(weights, 1, 2), block_queries)
        gradient = _put_embeddings(gradient, band, layout, indices, table.shape)
        table_gradients.append(_add_to_last(table_gradients, gradient))
    return ops.stack(query_gradients), value_gradients[-1], table_gradients[-1]


def _add_to_last(totals, term):
    return totals[-1] + term if totals else term


def _after(tensor, outputs):
    """Returns the tensor, which is not there before the last output.

    Blocks that do not depend on each other may be computed all at once, and
    then need the memory of all.
    """
    return _follow(outputs[-1], tensor) if outputs else tensor


def _follow(first, tensor):
    """Returns the tensor, which is not there before the first one is."""
    number = first[(0,) * len(first.shape)]
    never = ops.logical_and(number < 0, number > 0)
    return ops.where(never, ops.cast(0, tensor.dtype), tensor)


def _take_embeddings(table, band, layout, indices):
    """Returns the embeddings of a band, `(n, m u, k)`."""
    *_, intra_depth, key_dim = table.shape
    indices = indices[band.count]
    table = table[band.offset : band.offset + layout.count_table_rows(band)]
    table = ops.reshape(table, (-1, intra_depth * key_dim))
    embeddings = ops.take(table, indices, axis=0)
    return ops.reshape(embeddings, (indices.shape[0], -1, key_dim))


def _put_embeddings(gradient, band, layout, indices, shape):
    """Is the transpose of `_take_embeddings`."""
    _, *columns, intra_depth, key_dim = shape
    rows = layout.count_table_rows(band)
    table = ops.segment_sum(
        ops.reshape(gradient, (-1, intra_depth * key_dim)),
        ops.reshape(indices[band.count], (-1,)),
        num_segments=rows * math.prod(columns),
    )
    table = ops.reshape(table, (rows, *columns, intra_depth, key_dim))
    return take_offsets(table, 0, -band.offset, shape[0] - band.offset)


def _take_values(values, band, layout):
    """Returns the values of a band, `(b, m u, v)`."""
    row = values.shape[1] // layout.context_grid[0]
    if band.count == layout.context_grid[0]:
        return values
    return values[:, band.start * row : (band.start + band.count) * row]


def _put_values(gradient, band, layout, shape):
    """Is the transpose of `_take_values`."""
    row = shape[1] // layout.context_grid[0]
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


def _apply_lambdas(queries, lambdas):
    """Applies `(b, v, n, k)` to `(b, n, j, k)`, to `(b, n, j, v)`."""
    return ops.matmul(queries, ops.transpose(lambdas, (0, 2, 3, 1)))


def _convolve(images, kernel):
    """Convolves with same padding: `(b, ..., u)` with `(..., u, k)`.

    The gradients are those of a convolution, made where that is faster by
    convolutions of another kind.
    """
    if None in images.shape[1:]:
        return ops.conv(images, kernel, padding="same")
    is_wide = kernel.shape[-3] > _WIDEST_NATIVE_KERNEL
    outputs = ops.conv(
        ops.stop_gradient(images),
        ops.stop_gradient(kernel) if is_wide else kernel,
        padding="same",
    )

    @ops.custom_gradient
    def attach_gradients(outputs, images, kernel):
        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            kernel_gradient = (
                _differentiate_kernel(images, upstream, kernel.shape)
                if is_wide
                else ops.zeros_like(kernel)
            )
            return (
                upstream,
                _differentiate_images(upstream, kernel),
                kernel_gradient,
            )

        return ops.reshape(outputs, (-1, *outputs.shape[1:])), gradient

    return attach_gradients(outputs, images, kernel)


def _differentiate_images(upstream, kernel):
    """Convolves back: `(b, ..., k)` with `(..., u, k)` to `(b, ..., u)`.

    A convolution with few output channels leaves most of a processor's lanes
    empty. So a strided one makes the pixels of a tile as its channels, with
    one kernel a pixel of the tile, each shifted by its place.
    """
    grid = upstream.shape[1:-1]
    *scopes, intra_depth, key_dim = kernel.shape
    rank = len(grid)
    tile = _TILES[rank]
    reach = [scope + size - 1 for scope, size in zip(scopes, tile, strict=True)]
    table = ops.flip(kernel, axis=tuple(range(rank)))
    for axis, (scope, size) in enumerate(zip(scopes, tile, strict=True)):
        table = take_offsets(table, axis, 1 - size, scope + size - 1)
    kernel = _expand(table, tile, reach, Strides())  # (n, m, u, k)
    kernel = ops.transpose(kernel, (1, 3, 0, 2))
    kernel = ops.reshape(kernel, (*reach, key_dim, -1))

    missing = [-size % side for size, side in zip(grid, tile, strict=True)]
    # Explicit, because TensorFlow fuses a padding with "same" wrongly in 3D.
    padding = [
        (scope // 2, scope // 2 + count)
        for scope, count in zip(scopes, missing, strict=True)
    ]
    upstream = ops.pad(upstream, [(0, 0), *padding, (0, 0)])
    tiles = ops.conv(upstream, kernel, strides=tile, padding="valid")
    tiles = ops.reshape(tiles, (-1, *tiles.shape[1:-1], *tile, intra_depth))
    order = [
        axis
        for pair in zip(range(rank), range(rank, 2 * rank), strict=True)
        for axis in pair
    ]
    tiles = ops.transpose(
        tiles, (0, *(1 + axis for axis in order), 2 * rank + 1)
    )
    sizes = [size + count for size, count in zip(grid, missing, strict=True)]
    tiles = ops.reshape(tiles, (-1, *sizes, intra_depth))
    return tiles[(slice(None), *(slice(size) for size in grid))]


def _differentiate_kernel(images, upstream, shape):
    """Correlates `(b, ..., u)` with `(b, ..., k)`, to `(..., u, k)`.

    The batch travels in the channels, over which a convolution sums.
    """
    *scopes, _, _ = shape
    rank = len(scopes)
    grid_axes = tuple(range(1, 1 + rank))
    padding = [(scope // 2, scope // 2) for scope in scopes]
    images = ops.transpose(images, (rank + 1, *grid_axes, 0))
    images = ops.pad(images, [(0, 0), *padding, (0, 0)])
    kernel = ops.transpose(upstream, (*grid_axes, 0, rank + 1))
    outputs = ops.conv(images, kernel, padding="valid")  # (u, ..., k)
    return ops.moveaxis(outputs, 0, -2)
