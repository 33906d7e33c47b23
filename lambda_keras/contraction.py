"""The orders in which position lambdas can be contracted.

Nothing stands between the two sums of

    y[b, n, g, j, v] = sum_k q[b, n, g, j, k]
                       sum_um E[g, n, k, u, m] V[b, m, g, u, v],

so that they may be taken in either order, and the embeddings `E`, of which
each stands for an offset, made in several ways. The functions here are equal
to each other, and so are their gradients; `cost_model.py` says which is the
cheapest. The axis key of `functional.py` holds here.

Reference:
    - [Bello, 2021](https://arxiv.org/abs/2102.08602), section 3
"""

import math

from keras import ops

from lambda_keras import cost_model
from lambda_keras.functional import flatten_grid
from lambda_keras.offsets import Strides
from lambda_keras.offsets import expand_offsets
from lambda_keras.offsets import find_bands
from lambda_keras.offsets import take_offsets

# Kernels of one input channel that are wider take their gradient from a
# convolution: the native one is three times slower (oneDNN, AVX-512).
_WIDEST_NATIVE_KERNEL = 12
# Outputs that a strided convolution makes at once, by rank of the grid.
_TILES = {1: (16,), 2: (4, 4), 3: (2, 2, 4)}


def contract_position_lambdas(
    queries, values, table, centers, strides, order=None
):
    """Applies each query's own lambda, by the cheapest order.

    Args:
        queries: `(b, ..., g, j, k)`.
        values: `(b, ..., g, u, v)`.
        table: `(scope_1, ..., g, u, k)`, one embedding an offset. What lies
            beyond does not interact.
        centers: index of the offset 0 on each axis of the table.
        strides: steps of the two grids.
        order: one of `cost_model.ORDERS`. `None` for the cheapest one, which
            on a grid of unknown size is `"convolution"`.

    Returns:
        `(b, n, g, j, v)`.

    Raises:
        ValueError: If the sizes do not allow the order.
    """
    sizes = cost_model.Sizes(
        queries.shape[0],
        tuple(queries.shape[1:-3]),
        tuple(values.shape[1:-3]),
        tuple(table.shape[:-3]),
        tuple(centers),
        strides,
        *queries.shape[-3:],
        *values.shape[-2:],
    )
    plan = cost_model.choose_plan(sizes, order)
    if plan.order == "convolution":
        return contract_by_convolution(queries, values, table)
    if plan.order == "lambdas_first":
        return contract_lambdas_first(queries, values, table, centers, strides)
    return contract_queries_first(
        queries, values, table, centers, strides, plan.block_rows
    )


def contract_queries_first(
    queries, values, table, centers, strides, block_rows
):
    """Applies position lambdas, the queries first, in blocks of rows.

    n m j (k + v) multiply-adds an example, where m is what the block's
    context rows hold, and no (b, n, k, v) tensor. The blocks come one after
    the other, and the gradient computes the weights of a block anew, so that
    memory does not grow with the number of blocks.

    Args:
        queries: `(b, ..., g, j, k)`, on a grid of known size.
        values: `(b, ..., g, u, v)`, on a grid of known size.
        table: `(scope_1, ..., g, u, k)`.
        centers: index of the offset 0 on each axis of the table.
        strides: steps of the two grids.
        block_rows: rows of the query grid that are taken at once.

    Returns:
        `(b, n, g, j, v)`.
    """
    rows, *columns = queries.shape[1:-3]
    context_rows, *context_columns = values.shape[1:-3]
    groups, shared, key_dim = queries.shape[-3:]
    blocks = math.ceil(rows / block_rows)
    embeddings, bands = expand_bands(
        table,
        centers,
        (block_rows, *columns),
        (context_rows, *context_columns),
        strides,
        blocks,
    )
    missing = blocks * block_rows - rows
    if missing:
        padding = [
            (0, missing) if axis == 1 else (0, 0)
            for axis in range(len(queries.shape))
        ]
        queries = ops.pad(queries, padding)
    width = block_rows * math.prod(columns)
    queries = ops.reshape(queries, (-1, blocks, width, groups, shared, key_dim))
    queries = ops.transpose(queries, (1, 3, 2, 0, 4, 5))
    queries = ops.reshape(queries, (blocks, groups * width, -1, key_dim))
    outputs = _contract_bands(groups, shared, bands, strides.context)(
        queries, _split_context(values), embeddings
    )
    value_dim = values.shape[-1]
    outputs = ops.reshape(
        outputs, (-1, groups, blocks * width, shared, value_dim)
    )
    outputs = ops.transpose(outputs, (0, 2, 1, 3, 4))
    return outputs[:, : rows * math.prod(columns)] if missing else outputs


def contract_lambdas_first(queries, values, table, centers, strides):
    """Applies position lambdas, the lambdas first, as a matrix product.

    n m k v multiply-adds an example and a (b, n, k, v) tensor: cheaper than
    the queries first where many of them share a lambda.

    Args:
        queries: `(b, ..., g, j, k)`, on a grid of known size.
        values: `(b, ..., g, u, v)`, on a grid of known size.
        table: `(scope_1, ..., g, u, k)`.
        centers: index of the offset 0 on each axis of the table.
        strides: steps of the two grids.

    Returns:
        `(b, n, g, j, v)`.
    """
    grid, context_grid = queries.shape[1:-3], values.shape[1:-3]
    groups, _, key_dim = queries.shape[-3:]
    value_dim = values.shape[-1]
    positions = math.prod(grid)
    embeddings, (band,) = expand_bands(
        table, centers, grid, context_grid, strides, blocks=1
    )
    embeddings = _take_embeddings(embeddings, band, strides.context)
    embeddings = ops.reshape(
        embeddings, (groups, positions * key_dim, embeddings.shape[-1])
    )
    values = _split_context(values)[:, :, band.start :][:, :, : band.count]
    values = ops.reshape(values, (-1, groups, embeddings.shape[-1], value_dim))
    values = ops.reshape(
        ops.transpose(values, (1, 0, 3, 2)),
        (groups, -1, embeddings.shape[-1]),
    )
    lambdas = ops.matmul(values, ops.swapaxes(embeddings, 1, 2))
    lambdas = ops.reshape(lambdas, (groups, -1, value_dim, positions, key_dim))
    queries = flatten_grid(queries)
    outputs = [
        _apply_lambdas(queries[:, :, group], lambdas[group])
        for group in range(groups)
    ]
    return ops.stack(outputs, axis=2)


def contract_by_convolution(queries, values, table):
    """Applies position lambdas, made first by a convolution.

    The lambda convolution of the paper (section 3.1): the value axis is an
    axis of space on which nothing is convolved. n r k v multiply-adds an
    example with the r offsets of the scope, and a (b, n, k, v) tensor. The
    sizes of the grid may be unknown.

    Args:
        queries: `(b, ..., g, j, k)`.
        values: `(b, ..., g, u, v)`.
        table: `(scope_1, ..., g, u, k)`, with odd scopes.

    Returns:
        `(b, n, g, j, v)`.
    """
    *_, groups, intra_depth, value_dim = values.shape
    grid = ops.shape(values)[1:-3]
    queries, values = flatten_grid(queries), flatten_grid(values)
    outputs = []
    for group in range(groups):
        # One kernel serves every value channel, so v travels in the batch.
        images = ops.transpose(values[:, :, group], (0, 3, 1, 2))
        images = ops.reshape(images, (-1, *grid, intra_depth))
        lambdas = _convolve(images, table[..., group, :, :])
        lambdas = ops.reshape(
            lambdas, (-1, value_dim, math.prod(grid), table.shape[-1])
        )
        outputs.append(_apply_lambdas(queries[:, :, group], lambdas))
    return ops.stack(outputs, axis=2)


def expand_bands(table, centers, block_grid, context_grid, strides, blocks):
    """Makes the embeddings of a block of queries, wherever the block lies.

    Args:
        table: `(scope_1, ..., g, u, k)`.
        centers: index of the offset 0 on each axis of the table.
        block_grid: sizes of the grid of a block of queries: some of the
            rows, all of the columns.
        context_grid: sizes of the grid of the context.
        strides: steps of the two grids.
        blocks: number of blocks from the first row on.

    Returns:
        Embeddings `(g n, k, u, offsets, m)` of n queries and the m context
        positions of a row, and the `Band` of each block.
    """
    bands, offsets = find_bands(
        table.shape[0],
        centers[0],
        block_grid[0],
        context_grid[0],
        strides,
        blocks,
    )
    # Offsets of the first context row of a band from the block's first query.
    first = (bands[0].start * strides.context) - bands[0].offset
    table = _put_depths_first(table)
    start = centers[0] + first - (block_grid[0] - 1) * strides.query
    table = take_offsets(table, 3, start, centers[0] + first + offsets)
    for axis in range(1, len(block_grid)):
        table = _fit_offsets(
            table, axis, centers, block_grid, context_grid, strides
        )
    embeddings = expand_offsets(
        table,
        block_grid,
        (offsets, *context_grid[1:]),
        [Strides(strides.query, 1)] + [strides] * (len(block_grid) - 1),
    )
    groups, queries, key_dim, intra_depth, _ = embeddings.shape
    embeddings = ops.reshape(
        embeddings, (groups * queries, key_dim, intra_depth, offsets, -1)
    )
    return embeddings, bands


def expand_pairs(table, centers, query_grid, context_grid, strides):
    """Makes the embeddings of all pairs of positions.

    Args:
        table: `(scope_1, ..., g, u, k)`.
        centers: index of the offset 0 on each axis of the table.
        query_grid: sizes of the grid of the queries.
        context_grid: sizes of the grid of the context.
        strides: steps of the two grids.

    Returns:
        `(g, n, k, u, m)`, zero beyond the scope.
    """
    table = _put_depths_first(table)
    for axis in range(len(query_grid)):
        table = _fit_offsets(
            table, axis, centers, query_grid, context_grid, strides
        )
    return expand_offsets(
        table, query_grid, context_grid, [strides] * len(query_grid)
    )


def _put_depths_first(table):
    """Brings `(scope_1, ..., g, u, k)` to `(g, k, u, scope_1, ...)`."""
    return ops.transpose(table, (-3, -1, -2, *range(len(table.shape) - 3)))


def _fit_offsets(table, axis, centers, query_grid, context_grid, strides):
    """Cuts or zero-pads an axis of offsets to those that its grids reach."""
    before = (query_grid[axis] - 1) * strides.query
    after = (context_grid[axis] - 1) * strides.context
    center = centers[axis]
    return take_offsets(table, 3 + axis, center - before, center + after + 1)


def _split_context(values):
    """Brings `(b, rows, ..., g, u, v)` to `(b g, u, rows, m, v)`."""
    rows, *columns = values.shape[1:-3]
    groups, intra_depth, value_dim = values.shape[-3:]
    values = ops.reshape(
        values,
        (-1, rows, math.prod(columns), groups, intra_depth, value_dim),
    )
    values = ops.transpose(values, (0, 3, 4, 1, 2, 5))
    return ops.reshape(
        values, (-1, intra_depth, rows, math.prod(columns), value_dim)
    )


def _contract_bands(groups, shared, bands, step):
    """Returns the function that contracts block after block.

    Args:
        groups: number of lambdas a position.
        shared: number of queries that share one.
        bands: what each block sees.
        step: offsets from one context row to the next.

    Returns:
        A function of queries `(blocks, g n, b j, k)`, values `(b g, u, rows,
        m, v)` and embeddings `(g n, k, u, offsets, m)`, that returns
        `(b g, blocks n j, v)`.
    """

    @ops.custom_gradient
    def contract(queries, values, embeddings):
        outputs = []
        for block, band in enumerate(bands):
            weights = ops.matmul(
                _after(queries[block], outputs),
                _take_embeddings(embeddings, band, step),
            )
            outputs.append(
                ops.matmul(
                    _to_examples(weights, groups, shared),
                    _take_values(values, band),
                )
            )

        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return _differentiate_bands(
                queries, values, embeddings, upstream, shared, bands, step
            )

        return ops.concatenate(outputs, axis=1), gradient

    return contract


def _differentiate_bands(
    queries, values, embeddings, upstream, shared, bands, step
):
    pairs = embeddings.shape[0]
    outputs = upstream.shape[1] // len(bands)
    groups = pairs * shared // outputs
    query_gradients = []
    value_gradient = embedding_gradient = None
    for block, band in enumerate(bands):
        block_queries = _after(queries[block], query_gradients)
        block_embeddings = _take_embeddings(embeddings, band, step)
        block_values = _take_values(values, band)
        block_upstream = upstream[:, block * outputs : (block + 1) * outputs]

        weights = ops.matmul(block_queries, block_embeddings)
        weights = _to_examples(weights, groups, shared)
        gradient = ops.matmul(ops.swapaxes(weights, 1, 2), block_upstream)
        value_gradient = _add(
            value_gradient, _put_values(gradient, band, values)
        )
        weights = ops.matmul(block_upstream, ops.swapaxes(block_values, 1, 2))
        weights = _to_positions(weights, groups, shared)
        query_gradients.append(
            ops.matmul(weights, ops.swapaxes(block_embeddings, 1, 2))
        )
        gradient = ops.matmul(ops.swapaxes(block_queries, 1, 2), weights)
        embedding_gradient = _add(
            embedding_gradient,
            _put_embeddings(gradient, band, step, embeddings),
        )
    return ops.stack(query_gradients), value_gradient, embedding_gradient


def _after(tensor, outputs):
    """Returns the tensor, which is not there before the last output but one.

    Blocks that do not depend on each other may be computed all at once, and
    then need the memory of all.
    """
    if len(outputs) < 2:
        return tensor
    output = outputs[-2]
    first = output[(0,) * len(output.shape)]
    return ops.where(first == first, tensor, first)


def _add(total, term):
    return term if total is None else total + term


def _take_embeddings(embeddings, band, step):
    """Returns what a band needs of them, `(g n, k, u m)`."""
    pairs, key_dim, _, offsets, _ = embeddings.shape
    if band.count < offsets or step > 1:
        end = band.offset + (band.count - 1) * step + 1
        embeddings = embeddings[:, :, :, band.offset : end : step]
    return ops.reshape(embeddings, (pairs, key_dim, -1))


def _put_embeddings(gradient, band, step, embeddings):
    """Is the transpose of `_take_embeddings`."""
    pairs, key_dim, intra_depth, offsets, columns = embeddings.shape
    gradient = ops.reshape(
        gradient, (pairs, key_dim * intra_depth, band.count, columns)
    )
    if step > 1:
        gradient = ops.reshape(
            gradient, (pairs, key_dim * intra_depth, band.count, 1, columns)
        )
        gradient = ops.pad(
            gradient, [(0, 0), (0, 0), (0, 0), (0, step - 1), (0, 0)]
        )
        gradient = ops.reshape(
            gradient, (pairs, key_dim * intra_depth, -1, columns)
        )
        gradient = gradient[:, :, : (band.count - 1) * step + 1]
    end = offsets - band.offset - gradient.shape[2]
    if band.offset or end:
        gradient = ops.pad(
            gradient, [(0, 0), (0, 0), (band.offset, end), (0, 0)]
        )
    return ops.reshape(gradient, embeddings.shape)


def _take_values(values, band):
    """Returns what a band needs of them, `(b g, u m, v)`."""
    rows, columns, value_dim = values.shape[2:]
    if band.count < rows:
        values = values[:, :, band.start : band.start + band.count]
    size = values.shape[1] * band.count * columns
    return ops.reshape(values, (-1, size, value_dim))


def _put_values(gradient, band, values):
    """Is the transpose of `_take_values`."""
    _, intra_depth, rows, columns, value_dim = values.shape
    gradient = ops.reshape(
        gradient, (-1, intra_depth, band.count, columns, value_dim)
    )
    if band.count == rows:
        return gradient
    end = rows - band.start - band.count
    return ops.pad(
        gradient, [(0, 0), (0, 0), (band.start, end), (0, 0), (0, 0)]
    )


def _to_examples(weights, groups, shared):
    """Brings `(g n, b j, m)` to `(b g, n j, m)`."""
    pairs, _, context = weights.shape
    positions = pairs // groups
    weights = ops.reshape(weights, (groups, positions, -1, shared * context))
    weights = ops.transpose(weights, (2, 0, 1, 3))
    return ops.reshape(weights, (-1, positions * shared, context))


def _to_positions(weights, groups, shared):
    """Brings `(b g, n j, m)` to `(g n, b j, m)`."""
    _, outputs, context = weights.shape
    positions = outputs // shared
    weights = ops.reshape(weights, (-1, groups, positions, shared * context))
    weights = ops.transpose(weights, (1, 2, 0, 3))
    return ops.reshape(weights, (groups * positions, -1, context))


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
    table = ops.transpose(table, (rank + 1, rank, *range(rank)))[None]
    for axis, (scope, size) in enumerate(zip(scopes, tile, strict=True)):
        table = take_offsets(table, 3 + axis, 1 - size, scope + size - 1)
    kernel = expand_offsets(table, tile, reach, [Strides()] * rank)
    kernel = ops.transpose(kernel[0], (3, 1, 0, 2))  # (m, k, n, u)
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
