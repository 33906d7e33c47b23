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

from keras import ops

from lambda_keras.contraction import offset_rows
from lambda_keras.contraction import query_rows
from lambda_keras.contraction.offsets import Geometry
from lambda_keras.contraction.offsets import Strides
from lambda_keras.contraction.offsets import index_pairs
from lambda_keras.contraction.offsets import take_offsets
from lambda_keras.functional import flatten_grid

# Kernels of one input channel that are wider take their gradient from a
# convolution: the native one is three times slower (oneDNN, AVX-512).
_WIDEST_NATIVE_KERNEL = 12
# Outputs that a strided convolution makes at once, by rank of the grid.
_TILES = {1: (16,), 2: (4, 4), 3: (2, 2, 4)}
_BLOCKS = {"query_rows": query_rows, "offset_rows": offset_rows}


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
    return contract_queries_first(queries, values, table, geometry, plan)


def contract_queries_first(queries, values, table, geometry, plan):
    """Applies position lambdas, the queries first, in blocks.

    n m j (k + v) multiply-adds an example, where m is what a query row has in
    reach, and no (b, n, k, v) tensor. The blocks are rows of queries or rows
    of offsets, which the outputs and the gradient may each have their own of.

    Args:
        queries: `(b, n, j, k)`.
        values: `(b, m, u, v)`.
        table: `(scope_1, ..., u, k)`.
        geometry: a `Geometry`.
        plan: a `Plan` of the order `"queries_first"`.

    Returns:
        `(b, n, j, v)`.
    """
    grids = geometry.query_grid, geometry.context_grid
    for axis, center in enumerate(geometry.centers[1:], 1):
        table = _fit_offsets(table, axis, center, *grids, geometry.strides)
    blocks, gradient_blocks = plan.blocks, plan.gradient_blocks

    @ops.custom_gradient
    def contract(queries, values, table):
        tensors = queries, values, table
        outputs = _BLOCKS[blocks.kind].contract(*tensors, geometry, blocks.rows)

        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return _BLOCKS[gradient_blocks.kind].differentiate(
                *tensors, upstream, geometry, gradient_blocks.rows
            )

        return outputs, gradient

    return contract(queries, values, table)


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
