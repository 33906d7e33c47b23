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
from typing import Any
from typing import NamedTuple

import numpy as np
from keras import ops

# Below any key, and still finite: differences of infinities are not numbers.
LOWEST = -1e30
# Below any sum of squares that a key can have.
_TINY = 1e-30


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


class RunningSums(NamedTuple):
    """Content lambdas in the making, over any set of context positions.

    Two disjoint sets are merged by `merge_sums`, in any order. The sums are
    kept relative to the largest key of the set, so that they neither overflow
    nor vanish.

    Attributes:
        peaks: the largest key, `(b, ..., g, u, k, 1)`.
        totals: what the keys are normalized by, the same shape.
        lambdas: keys times values, `(b, ..., g, u, k, v)`.
    """

    peaks: Any
    totals: Any
    lambdas: Any


def start_sums(keys, values, normalization, visible=None):
    """Makes the running sums of each context position alone.

    Args:
        keys: `(b, ..., g, u, k)`.
        values: `(b, ..., g, u, v)`.
        normalization: as in `normalize_keys`.
        visible: bools, `(b, ...)`.

    Returns:
        `RunningSums`.
    """
    keys = keys[..., None]
    values = ops.expand_dims(values, -2)
    if normalization == "softmax":
        peaks = keys
        totals = ops.ones_like(keys)
        lambdas = totals * values
    else:
        peaks = ops.zeros_like(keys)
        totals = keys * keys
        lambdas = keys * values
    if visible is None:
        return RunningSums(peaks, totals, lambdas)
    visible = visible[..., None, None, None, None]
    return RunningSums(
        ops.where(visible, peaks, LOWEST),
        ops.where(visible, totals, 0.0),
        ops.where(visible, lambdas, 0.0),
    )


def merge_sums(first, second):
    """Merges the running sums of two disjoint sets of positions."""
    peaks = ops.maximum(first.peaks, second.peaks)
    scale_first = ops.exp(first.peaks - peaks)
    scale_second = ops.exp(second.peaks - peaks)
    return RunningSums(
        peaks,
        first.totals * scale_first + second.totals * scale_second,
        first.lambdas * scale_first + second.lambdas * scale_second,
    )


def accumulate_sums(sums, axis=1, reverse=False):
    """Merges, at each position of an axis, the sums of all before it.

    Args:
        sums: `RunningSums` of the positions.
        axis: axis of the positions, of known size.
        reverse: whether to merge all after it instead.

    Returns:
        `RunningSums` of the same shapes. A position includes itself.
    """
    return ops.associative_scan(merge_sums, sums, reverse=reverse, axis=axis)


def slide_sums(sums, axis, before, after):
    """Merges, at each position of an axis, the sums in a window around it.

    Linear in the number of positions, whatever the window: within blocks of
    the window's length, a window is the end of one block and the beginning of
    the next.

    Args:
        sums: `RunningSums` of the positions.
        axis: axis of the positions, of known size.
        before: number of positions in the window before the position.
        after: number of positions in the window after the position.

    Returns:
        `RunningSums` of the same shapes.
    """
    shapes = [ops.shape(tensor) for tensor in sums]
    length = shapes[0][axis]
    window = before + 1 + after
    blocks = -(-(length + window) // window)
    # (b and axes before, positions, what follows, 1 or v): few axes suit
    # every backend.
    sums = RunningSums(
        *(
            ops.reshape(
                tensor, (-1, length, math.prod(shape[axis + 1 : -1]), shape[-1])
            )
            for tensor, shape in zip(sums, shapes, strict=True)
        )
    )
    padded = _pad_sums(sums, 1, before, blocks * window - length - before)
    in_blocks = RunningSums(
        *(
            ops.reshape(tensor, (-1, blocks, window, *tensor.shape[2:]))
            for tensor in padded
        )
    )
    ends = accumulate_sums(in_blocks, axis=2, reverse=True)
    # The beginning of a block stops short of the position: none at its start.
    beginnings = accumulate_sums(in_blocks, axis=2)
    beginnings = _slice_sums(_pad_sums(beginnings, 2, 1, 0), 2, 0, window)
    ends, beginnings = (
        RunningSums(
            *(
                ops.reshape(tensor, (-1, blocks * window, *tensor.shape[3:]))
                for tensor in part
            )
        )
        for part in (ends, beginnings)
    )
    merged = merge_sums(
        _slice_sums(ends, 1, 0, length),
        _slice_sums(beginnings, 1, window, window + length),
    )
    return RunningSums(*map(ops.reshape, merged, shapes))


def finish_sums(sums, normalization):
    """Makes content lambdas of running sums.

    Args:
        sums: `RunningSums`.
        normalization: as in `normalize_keys`.

    Returns:
        `(b, ..., g, k, v)`. A lambda of no positions is zero.
    """
    lambdas = sums.lambdas
    if normalization == "softmax":
        lambdas = lambdas / ops.where(sums.totals > 0, sums.totals, 1.0)
    elif normalization == "l2":
        lambdas = lambdas * ops.rsqrt(ops.maximum(sums.totals, _TINY))
    return ops.sum(lambdas, axis=-3)


def apply_lambdas(queries, lambdas):
    """Applies each query's own lambda.

    Args:
        queries: `(b, ..., g, j, k)`.
        lambdas: `(b, ..., g, k, v)`.

    Returns:
        `(b, ..., g, j, v)`.
    """
    return ops.matmul(queries, lambdas)


def _normalize(keys, normalization, visible, axis):
    if normalization == "softmax":
        if visible is not None:
            keys = ops.where(visible, keys, LOWEST)
        # `ops.softmax` gives a row that sees nothing equal weights, and warns
        # of an axis of size 1, which a grid of one position has.
        peaks = ops.stop_gradient(ops.max(keys, axis=axis, keepdims=True))
        weights = ops.exp(keys - peaks)
        if visible is not None:
            weights = ops.where(visible, weights, 0.0)
        totals = ops.sum(weights, axis=axis, keepdims=True)
        return weights / ops.where(totals > 0, totals, 1.0)
    if visible is not None:
        keys = ops.where(visible, keys, 0.0)
    if normalization == "l2":
        squares = ops.sum(keys * keys, axis=axis, keepdims=True)
        keys = keys * ops.rsqrt(ops.maximum(squares, _TINY))
    return keys


def _list_positions(grid):
    axes = ops.meshgrid(*(ops.arange(size) for size in grid), indexing="ij")
    return ops.stack([ops.reshape(axis, (-1,)) for axis in axes], axis=-1)


def _pad_sums(sums, axis, before, after):
    padding = [(0, 0)] * len(sums.peaks.shape)
    padding[axis] = (before, after)
    return RunningSums(
        ops.pad(sums.peaks, padding, constant_values=LOWEST),
        ops.pad(sums.totals, padding),
        ops.pad(sums.lambdas, padding),
    )


def _slice_sums(sums, axis, start, stop):
    index = (slice(None),) * axis + (slice(start, stop),)
    return RunningSums(*(tensor[index] for tensor in sums))
