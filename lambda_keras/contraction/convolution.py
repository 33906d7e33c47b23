"""Position lambdas, made first, by a convolution."""

import math

from keras import ops

from lambda_keras.contraction.lambdas_first import apply_lambdas
from lambda_keras.contraction.offsets import Strides
from lambda_keras.contraction.offsets import take_offsets
from lambda_keras.contraction.offsets import take_pairs
from lambda_keras.functional import find_sizes

# Kernels of one input channel that are wider take their gradient from a
# convolution: the native one is three times slower (oneDNN, AVX-512).
_WIDEST_NATIVE_KERNEL = 12
# Outputs that a strided convolution makes at once, by rank of the grid: 16 of
# them, the lanes of a register of AVX-512.
_TILES = {1: (16,), 2: (4, 4), 3: (2, 2, 4)}


def contract(queries, values, table, grid):
    """Applies each query's own lambda, made first by a convolution.

    The lambda convolution of the paper (section 3.1): the value axis is an
    axis of space on which nothing is convolved. n r k v multiply-adds per
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
    return apply_lambdas(queries, lambdas)


def _convolve(images, kernel):
    """Convolves with same padding: `(b, ..., u)` with `(..., u, k)`.

    The gradients are those of a convolution, made where that is faster by
    convolutions of another kind.
    """
    # Tiles need a known size.
    if None in find_sizes(images.shape[1:]):
        return ops.conv(images, kernel, padding="same")
    is_wide = kernel.shape[-3] > _WIDEST_NATIVE_KERNEL
    # The native gradient stays only where it is the faster one. It cannot be
    # called by itself on all backends, so that what replaces the others is
    # attached to the outputs, of which the convolution knows nothing.
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
    one kernel per pixel of the tile, each shifted by its place.
    """
    grid = upstream.shape[1:-1]
    *scopes, intra_depth, key_dim = kernel.shape
    rank = len(grid)
    tile = _TILES[rank]
    reach = [scope + size - 1 for scope, size in zip(scopes, tile, strict=True)]
    table = ops.flip(kernel, axis=tuple(range(rank)))
    for axis, (scope, size) in enumerate(zip(scopes, tile, strict=True)):
        table = take_offsets(table, axis, 1 - size, scope + size - 1)
    kernel = take_pairs(table, tile, reach, Strides())  # (n, m, u, k)
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

    The batch travels in the channels, over which a convolution sums, and the
    channels of the images in the batch: the gradient of a kernel sums over
    examples and pixels, and with one input channel the batch is what gives the
    products a depth.
    """
    *scopes, _, _ = shape
    rank = len(scopes)
    grid_axes = tuple(range(1, 1 + rank))
    padding = [(scope // 2, scope // 2) for scope in scopes]
    images = ops.transpose(images, (rank + 1, *grid_axes, 0))
    images = ops.pad(images, [(0, 0), *padding, (0, 0)])
    kernel = ops.transpose(upstream, (*grid_axes, 0, rank + 1))

    def correlate():
        outputs = ops.conv(images, kernel, padding="valid")  # (u, ..., k)
        return ops.moveaxis(outputs, 0, -2)

    # No convolution takes inputs without channels, as no examples are here.
    (batch,) = find_sizes(upstream.shape[:1])
    if batch:
        return correlate()
    nothing = ops.zeros(shape, upstream.dtype)
    if batch == 0:
        return nothing
    is_empty = ops.equal(ops.shape(upstream)[0], 0)
    return ops.cond(is_empty, lambda: nothing, correlate)
