"""The equations of the lambda layer on tensors, without weights.

Axis key, for the einsum strings and the shape comments of this package:

    b  batch                    h  heads: queries that share one lambda
    n  query positions          k  key depth
    m  context positions        v  value depth, filters / h
    u  intra-depth              d  filters

Positions are flattened in row-major order. A grid is a tuple of sizes, such
as `(height, width)`; its rank is free, and `p` stands for its axes one by one.

The position output has nothing non-linear between its two sums,

    y[b, n, h, v] = sum_k q[b, n, h, k] sum_mu E[n, m, u, k] V[b, m, u, v],

so they may be taken in either order. Lambdas first is the paper's order:
n m u k v multiply-adds an example. Queries first takes n m u h (k + v), fewer
whenever k v > h (k + v), and keeps no (b, n, k, v) tensor.

Reference:
    - [Bello, 2021](https://arxiv.org/abs/2102.08602), sections 3 and B.1
"""

import math

from keras import ops


def normalize_keys(keys):
    """Takes the softmax of the keys over the context.

    Args:
        keys: `(batch_size, context, intra_depth, key_dim)`.

    Returns:
        The same shape; each column sums to 1 over the context.
    """
    # `ops.softmax` warns of an axis of size 1; a grid of one position is fine.
    peaks = ops.stop_gradient(ops.max(keys, axis=1, keepdims=True))
    exponentials = ops.exp(keys - peaks)
    return exponentials / ops.sum(exponentials, axis=1, keepdims=True)


def compute_content_lambda(keys, values):
    """Sums the normalized keys times the values over the context.

    Args:
        keys: `(batch_size, context, intra_depth, key_dim)`, already
            normalized over the context.
        values: `(batch_size, context, intra_depth, value_dim)`.

    Returns:
        One lambda an example, `(batch_size, key_dim, value_dim)`.
    """
    return ops.einsum("bmuk,bmuv->bkv", keys, values)


def apply_content_lambda(queries, content_lambda):
    """Applies one lambda an example to every query of that example.

    Args:
        queries: `(batch_size, queries, num_heads, key_dim)`.
        content_lambda: `(batch_size, key_dim, value_dim)`.

    Returns:
        `(batch_size, queries, num_heads, value_dim)`.
    """
    return ops.einsum("bnhk,bkv->bnhv", queries, content_lambda)


def fit_offsets(table, grid):
    """Cuts or zero-pads a table of offsets to those that a grid can reach.

    Args:
        table: one embedding an offset, `(scope_1, ..., intra_depth, key_dim)`
            with odd scopes; the middle of each axis is offset 0.
        grid: sizes of the grid, one an axis of offsets.

    Returns:
        `(2 * size_1 - 1, ..., intra_depth, key_dim)`. An offset outside the
        table's scope is zero: nothing there interacts.
    """
    for axis, size in enumerate(grid):
        margin = (table.shape[axis] - (2 * size - 1)) // 2
        if margin > 0:
            offsets = [slice(None)] * axis + [slice(margin, -margin)]
            table = table[tuple(offsets)]
        elif margin < 0:
            padding = [(0, 0)] * len(table.shape)
            padding[axis] = (-margin, -margin)
            table = ops.pad(table, padding)
    return table


def expand_offsets(table, grid):
    """Turns one embedding an offset into one a pair of positions.

    Args:
        table: `(2 * size_1 - 1, ..., intra_depth, key_dim)`.
        grid: sizes of the grid on which queries and context both stand.

    Returns:
        `(queries, context, intra_depth, key_dim)`, the paper's `E`: entry
        `(n, m)` is the table's entry for the offset `m - n`.
    """
    *_, intra_depth, key_dim = table.shape
    depth = intra_depth * key_dim
    done = 1
    for size in grid:
        # The row of query x is the table shifted by x. Laying the table down
        # `size` times with one blank between, then reading the same numbers
        # in rows one shorter, makes that shift without a gather.
        offsets = 2 * size - 1
        table = ops.reshape(table, (done, offsets, -1))
        rows = ops.transpose(table, (1, 0, 2))
        rows = ops.reshape(rows, (offsets, -1))
        rows = ops.pad(rows, [(0, 1), (0, 0)])
        rows = ops.broadcast_to(rows, (size, *rows.shape))
        rows = ops.reshape(rows, (size * (offsets + 1), -1))
        rows = rows[size - 1 : size - 1 + size * offsets]
        rows = ops.reshape(rows, (size, offsets, -1))[:, :size]
        # From (query here, context here, queries before, offsets to do,
        # contexts before, depth): few axes suit every converter.
        rows = ops.reshape(rows, (size, size, done, -1, done, depth))
        table = ops.transpose(rows, (2, 0, 3, 4, 1, 5))
        done *= size
    return ops.reshape(table, (done, done, intra_depth, key_dim))


def apply_position_lambdas(queries, values, embeddings):
    """Applies each query's own lambda, queries first.

    Args:
        queries: `(batch_size, queries, num_heads, key_dim)`.
        values: `(batch_size, context, intra_depth, value_dim)`.
        embeddings: `(queries, context, intra_depth, key_dim)`.

    Returns:
        `(batch_size, queries, num_heads, value_dim)`.
    """
    weights = ops.einsum("bnhk,nmuk->bnhmu", queries, embeddings)
    return ops.einsum("bnhmu,bmuv->bnhv", weights, values)


def convolve_position_lambdas(queries, values, table):
    """Applies each query's own lambda, made first by a convolution.

    The lambda convolution of the paper (section 3.1): the value axis is an
    axis of space on which nothing is convolved. The sizes of the grid may be
    unknown.

    Args:
        queries: `(batch_size, ..., num_heads, key_dim)`.
        values: `(batch_size, ..., intra_depth, value_dim)`.
        table: `(scope_1, ..., intra_depth, key_dim)`.

    Returns:
        `(batch_size, ..., num_heads, value_dim)`.
    """
    *_, intra_depth, value_dim = values.shape
    grid = ops.shape(values)[1:-2]
    # One kernel serves every value channel, so v travels in the batch.
    images = ops.moveaxis(values, -1, 1)  # (b, v, ..., u)
    images = ops.reshape(images, (-1, *grid, intra_depth))
    lambdas = ops.conv(images, table, padding="same")  # (b * v, ..., k)
    lambdas = ops.reshape(lambdas, (-1, value_dim, *grid, table.shape[-1]))
    return ops.einsum("b...hk,bv...k->b...hv", queries, lambdas)
