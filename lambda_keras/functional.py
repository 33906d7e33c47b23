"""The equations of the lambda layer on tensors, without weights.

Axis key, for the einsum strings and the shape comments of this package:

    b  batch                    g  lambdas a position (1: multi-query)
    n  query positions          j  queries that share one lambda
    m  context positions        k  key depth
    u  intra-depth              v  value depth

There are `h = g j` heads, and `g v j` output channels. Positions are flattened
in row-major order. A grid is a tuple of sizes, such as `(height, width)`, of
any rank.

The position output has nothing non-linear between its two sums,

    y[b, n, j, v] = sum_k q[b, n, j, k] sum_mu E[n, m, u, k] V[b, m, u, v],

so they may be taken in either order. Lambdas first is the paper's order:
n m u k v multiply-adds an example. Queries first takes n m u j (k + v), fewer
whenever k v > j (k + v), and keeps no (b, n, k, v) tensor.

Reference:
    - [Bello, 2021](https://arxiv.org/abs/2102.08602), sections 3 and B
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from keras import ops

# Below any key, and still finite: differences of infinities are not numbers.
LOWEST = -1e30
# Embeddings of pairs of positions that are made at once: 64 MiB in float32.
LARGEST_EXPANSION = 2**24
# Below any sum of squares that a key can have.
_TINY = 1e-30


def flatten_grid(tensor):
    """Reshapes `(b, ..., g, j, k)` to `(b, n, g, j, k)`."""
    *grid, groups, number, depth = tensor.shape[1:]
    if None in grid:
        batch_size = ops.shape(tensor)[0]
        return ops.reshape(tensor, (batch_size, -1, groups, number, depth))
    return ops.reshape(tensor, (-1, math.prod(grid), groups, number, depth))


def normalize_keys(keys, normalization, visible=None):
    """Normalizes the keys over the context.

    Args:
        keys: `(b, m, g, u, k)`.
        normalization: `"softmax"` (each column sums to 1), `"l2"` (each
            column has norm 1) or `None`.
        visible: bools, `(b, m)`. The other positions get zero.

    Returns:
        The same shape. A column that sees nothing is zero.
    """
    if visible is not None:
        visible = visible[:, :, None, None, None]
    return _normalize(keys, normalization, visible, axis=1)


def invert_totals(totals, normalization):
    """Returns what normalizes keys, of the sum of their weights.

    Args:
        totals: sums of exponentials for `"softmax"`, of squares for `"l2"`.
        normalization: as in `normalize_keys`.

    Returns:
        The shape of the totals. Where there is nothing to normalize, finite.
    """
    if normalization == "softmax":
        return 1.0 / ops.where(totals > 0, totals, 1.0)
    if normalization == "l2":
        return ops.rsqrt(ops.maximum(totals, _TINY))
    return ops.ones_like(totals)


def compute_content_lambda(keys, values):
    """Sums the normalized keys times the values over the context.

    Args:
        keys: `(b, m, g, u, k)`, as from `normalize_keys`.
        values: `(b, m, g, u, v)`.

    Returns:
        One lambda an example and group, `(b, g, k, v)`.
    """
    return ops.einsum("bmguk,bmguv->bgkv", keys, values)


def apply_content_lambda(queries, content_lambda):
    """Applies one lambda an example to every query of that example.

    Args:
        queries: `(b, n, g, j, k)`.
        content_lambda: `(b, g, k, v)`.

    Returns:
        `(b, n, g, j, v)`.
    """
    return ops.einsum("bngjk,bgkv->bngjv", queries, content_lambda)


def compute_content_weights(queries, keys, visible, normalization):
    """Computes how much of each value a query takes for its content.

    Every query normalizes the keys over the positions that it sees. Time and
    memory grow with n m k: for masks that have no structure.

    Args:
        queries: `(b, n, g, j, k)`.
        keys: `(b, m, g, u, k)`.
        visible: bools, `(b, n, m)`, where `b` and `n` may be 1.
        normalization: as in `normalize_keys`.

    Returns:
        `(b, g, n, j, m, u)`.
    """
    visible = visible[:, :, :, None, None, None]
    keys = _normalize(keys[:, None], normalization, visible, axis=2)
    if keys.shape[1] == 1:
        return ops.einsum("bngjk,bmguk->bgnjmu", queries, keys[:, 0])
    return ops.einsum("bngjk,bnmguk->bgnjmu", queries, keys)


def compute_position_weights(queries, embeddings):
    """Computes how much of each value a query takes for its position.

    Args:
        queries: `(b, n, g, j, k)`.
        embeddings: `(n, m, g, u, k)`.

    Returns:
        `(b, g, n, j, m, u)`.
    """
    return ops.einsum("bngjk,nmguk->bgnjmu", queries, embeddings)


def apply_weights(weights, values):
    """Sums the values with a weight for each query.

    Args:
        weights: `(b, g, n, j, m, u)`.
        values: `(b, m, g, u, v)`.

    Returns:
        `(b, n, g, j, v)`.
    """
    return ops.einsum("bgnjmu,bmguv->bngjv", weights, values)


def apply_position_lambdas(queries, values, table, strides):
    """Applies each query's own lambda, queries first.

    The embeddings of all pairs of positions are made in blocks of the rows of
    the query grid, no more than `LARGEST_EXPANSION` numbers at once unless a
    single row has more.

    Args:
        queries: `(b, ..., g, j, k)`, on a grid of known size.
        values: `(b, ..., g, u, v)`, on a grid of known size.
        table: `(count_offsets(...), ..., g, u, k)`.
        strides: steps of the two grids.

    Returns:
        `(b, n, g, j, v)`.
    """
    rows, *columns = queries.shape[1:-3]
    context_grid = values.shape[1:-3]
    queries, values = flatten_grid(queries), flatten_grid(values)
    width = math.prod(columns)
    row_size = width * math.prod(values.shape[1:-1]) * queries.shape[-1]
    block_size = max(LARGEST_EXPANSION // row_size, 1)
    if block_size >= rows:
        embeddings = expand_offsets(
            table, (rows, *columns), context_grid, strides
        )
        weights = compute_position_weights(queries, embeddings)
        return apply_weights(weights, values)
    outputs = []
    for first in range(0, rows, block_size):
        end = min(first + block_size, rows)
        # The offsets from the last row of the block to those from its first.
        start = (rows - end) * strides.query
        count = count_offsets(end - first, context_grid[0], strides)
        embeddings = expand_offsets(
            table[start : start + count],
            (end - first, *columns),
            context_grid,
            strides,
        )
        weights = compute_position_weights(
            queries[:, first * width : end * width], embeddings
        )
        outputs.append(apply_weights(weights, values))
    return ops.concatenate(outputs, axis=1)


def convolve_position_lambdas(queries, values, table):
    """Applies each query's own lambda, made first by a convolution.

    The lambda convolution of the paper (section 3.1): the value axis is an
    axis of space on which nothing is convolved. The sizes of the grid may be
    unknown.

    Args:
        queries: `(b, ..., g, j, k)`.
        values: `(b, ..., g, u, v)`.
        table: `(scope_1, ..., g, u, k)`.

    Returns:
        `(b, ..., g, j, v)`.
    """
    *_, groups, intra_depth, value_dim = values.shape
    grid = ops.shape(values)[1:-3]
    outputs = []
    for group in range(groups):
        # One kernel serves every value channel, so v travels in the batch.
        images = ops.moveaxis(values[..., group, :, :], -1, 1)  # (b, v, ..., u)
        images = ops.reshape(images, (-1, *grid, intra_depth))
        lambdas = ops.conv(images, table[..., group, :, :], padding="same")
        lambdas = ops.reshape(lambdas, (-1, value_dim, *grid, table.shape[-1]))
        outputs.append(
            ops.einsum(
                "b...jk,bv...k->b...jv", queries[..., group, :, :], lambdas
            )
        )
    return ops.stack(outputs, axis=-3)


class Strides(NamedTuple):
    """Steps of two grids that cover the same ground, in units of the finer."""

    query: int = 1
    context: int = 1


def count_offsets(query_size, context_size, strides):
    """Returns how many offsets there are between two axes of positions."""
    before = (query_size - 1) * strides.query
    after = (context_size - 1) * strides.context
    return before + 1 + after


def fit_offsets(table, query_grid, context_grid, strides):
    """Cuts or zero-pads a table of offsets to those that the grids can reach.

    Args:
        table: one embedding an offset, `(scope_1, ..., g, u, k)` with odd
            scopes; the middle of each axis is offset 0.
        query_grid: sizes of the grid of the queries.
        context_grid: sizes of the grid of the context.
        strides: steps of the two grids.

    Returns:
        `(count_offsets(...), ..., g, u, k)`. An offset outside the table's
        scope is zero: nothing there interacts.
    """
    padding = [(0, 0)] * len(table.shape)
    reachable = [slice(None)] * len(table.shape)
    for axis, (queries, contexts) in enumerate(
        zip(query_grid, context_grid, strict=True)
    ):
        reach = table.shape[axis] // 2
        before = (queries - 1) * strides.query - reach
        after = (contexts - 1) * strides.context - reach
        padding[axis] = (max(before, 0), max(after, 0))
        reachable[axis] = slice(
            max(-before, 0), table.shape[axis] - max(-after, 0)
        )
    table = table[tuple(reachable)]
    return ops.pad(table, padding) if np.any(padding) else table


def expand_offsets(table, query_grid, context_grid, strides):
    """Turns one embedding an offset into one a pair of positions.

    Args:
        table: `(count_offsets(...), ..., g, u, k)`.
        query_grid: sizes of the grid of the queries.
        context_grid: sizes of the grid of the context.
        strides: steps of the two grids.

    Returns:
        `(n, m, g, u, k)`, the paper's `E`: entry `(n, m)` is the table's
        entry for the offset from query `n` to context position `m`.
    """
    depths = tuple(table.shape[len(query_grid) :])
    queries = contexts = 1
    for query_size, context_size in zip(query_grid, context_grid, strict=True):
        # The row of query x is the table shifted by x steps. Laying the table
        # down once a query with a step of blanks between, then reading the
        # same numbers in rows a step shorter, makes that shift without a
        # gather.
        offsets = count_offsets(query_size, context_size, strides)
        blanks = strides.query
        rows = ops.reshape(table, (queries, offsets, -1))
        rows = ops.transpose(rows, (1, 0, 2))
        rows = ops.reshape(rows, (offsets, -1))
        rows = ops.pad(rows, [(0, blanks), (0, 0)])
        rows = ops.broadcast_to(rows, (query_size, *rows.shape))
        rows = ops.reshape(rows, (query_size * (offsets + blanks), -1))
        start = (query_size - 1) * strides.query
        rows = rows[start : start + query_size * offsets]
        rows = ops.reshape(rows, (query_size, offsets, -1))
        end = (context_size - 1) * strides.context + 1
        rows = rows[:, : end : strides.context]
        # From (query here, context here, queries before, offsets to do,
        # contexts before, depth): few axes suit every converter.
        rows = ops.reshape(
            rows,
            (
                query_size,
                context_size,
                queries,
                -1,
                contexts,
                math.prod(depths),
            ),
        )
        table = ops.transpose(rows, (2, 0, 3, 4, 1, 5))
        queries *= query_size
        contexts *= context_size
    return ops.reshape(table, (queries, contexts, *depths))


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


def _normalize(keys, normalization, visible, axis):
    if normalization == "softmax":
        # `ops.softmax` gives a row that sees nothing equal weights, and warns
        # of an axis of size 1, which a grid of one position has.
        if visible is not None:
            keys = ops.where(visible, keys, LOWEST)
        peaks = ops.stop_gradient(ops.max(keys, axis=axis, keepdims=True))
        keys = ops.exp(keys - peaks)
    if visible is not None:
        keys = ops.where(visible, keys, 0.0)
    totals = keys if normalization == "softmax" else keys * keys
    totals = ops.sum(totals, axis=axis, keepdims=True)
    return keys * invert_totals(totals, normalization)


def _list_positions(grid):
    axes = ops.meshgrid(*(ops.arange(size) for size in grid), indexing="ij")
    return ops.stack([ops.reshape(axis, (-1,)) for axis in axes], axis=-1)
