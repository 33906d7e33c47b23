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
    values = flatten_grid(values)
    row_size = math.prod([*columns, *values.shape[1:-1], queries.shape[-1]])
    block_size = min(max(LARGEST_EXPANSION // row_size, 1), rows)
    outputs = []
    for first in range(0, rows, block_size):
        last = min(first + block_size, rows) - 1
        # The offsets from the last row of the block to those from its first.
        start = (rows - 1 - last) * strides.query
        count = count_offsets(last - first + 1, context_grid[0], strides)
        embeddings = expand_offsets(
            table[start : start + count],
            (last - first + 1, *columns),
            context_grid,
            strides,
        )
        weights = compute_position_weights(
            flatten_grid(queries[:, first : last + 1]), embeddings
        )
        outputs.append(apply_weights(weights, values))
    return outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=1)


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
    nor vanish. All columns of the keys stand on one axis, `c = g u k`: few
    axes suit every backend and converter.

    Attributes:
        peaks: the largest key, `(b, ..., c, 1)`.
        totals: what the keys are normalized by, `(b, ..., c, 1)`.
        lambdas: keys times values, `(b, ..., c, v)`.
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
    positions = ops.shape(keys)[:-3]
    *_, groups, intra_depth, key_dim = keys.shape
    value_dim = values.shape[-1]
    keys = ops.reshape(keys, (-1, key_dim, 1))
    values = ops.reshape(values, (-1, 1, value_dim))
    if normalization == "softmax":
        peaks, totals = keys, ops.ones_like(keys)
        lambdas = totals * values
    else:
        peaks, totals = ops.zeros_like(keys), keys * keys
        lambdas = keys * values
    columns = groups * intra_depth * key_dim
    sums = RunningSums(
        ops.reshape(peaks, (*positions, columns, 1)),
        ops.reshape(totals, (*positions, columns, 1)),
        ops.reshape(lambdas, (*positions, columns, value_dim)),
    )
    if visible is None:
        return sums
    visible = ops.expand_dims(visible, (-1, -2))
    return RunningSums(
        ops.where(visible, sums.peaks, LOWEST),
        ops.where(visible, sums.totals, 0.0),
        ops.where(visible, sums.lambdas, 0.0),
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


def accumulate_sums(sums, axis):
    """Merges, at each position of an axis, the sums of all up to it.

    Args:
        sums: `RunningSums` of the positions.
        axis: axis of the positions, of known size.

    Returns:
        `RunningSums` of the same shapes.
    """
    length = sums.peaks.shape[axis]
    step = 1
    while step < length:
        # Each position holds the sums of `step` positions, or of all up to it.
        shifted = _slice_sums(_pad_sums(sums, axis, step, 0), axis, 0, length)
        sums = merge_sums(shifted, sums)
        step *= 2
    return sums


def slide_sums(sums, axis, before, after):
    """Merges, at each position of an axis, the sums in a window around it.

    The window's width costs its logarithm: windows of twice the width are two
    windows side by side.

    Args:
        sums: `RunningSums` of the positions.
        axis: axis of the positions, of known size.
        before: number of positions in the window before the position.
        after: number of positions in the window after the position.

    Returns:
        `RunningSums` of the same shapes.
    """
    length = sums.peaks.shape[axis]
    window = before + 1 + after
    # `doubled` at i holds the 2^bit positions from i, `merged` at i all those
    # of the bits so far.
    doubled = _pad_sums(sums, axis, before, after)
    merged, width = None, 0
    for bit in range(window.bit_length()):
        size = 2**bit
        if window & size:
            part = _slice_sums(doubled, axis, width, None)
            if merged is not None:
                count = part.peaks.shape[axis]
                part = merge_sums(_slice_sums(merged, axis, 0, count), part)
            merged, width = part, width + size
        if 2 * size <= window:
            doubled = merge_sums(
                _slice_sums(doubled, axis, 0, -size),
                _slice_sums(doubled, axis, size, None),
            )
    return _slice_sums(merged, axis, 0, length)


def finish_sums(sums, normalization, depths):
    """Makes content lambdas of running sums.

    Args:
        sums: `RunningSums`.
        normalization: as in `normalize_keys`.
        depths: `(g, u, k)`.

    Returns:
        `(b, n, g, k, v)`, the positions flattened. A lambda of no positions
        is zero.
    """
    lambdas = sums.lambdas * _invert_totals(sums.totals, normalization)
    batch_size, *grid, _, value_dim = ops.shape(lambdas)
    positions = math.prod(grid)
    lambdas = ops.reshape(lambdas, (batch_size * positions, *depths, value_dim))
    lambdas = ops.sum(lambdas, axis=2)
    return ops.reshape(lambdas, (batch_size, positions, *lambdas.shape[1:]))


def apply_causal_content(
    queries, keys, values, normalization, visible=None, block_size=16
):
    """Applies to each query the content lambda of all up to its position.

    Linear in the number of positions: running sums go from block to block,
    and within a block every query weighs every key.

    Args:
        queries: `(b, n, g, j, k)`, `n` known.
        keys: `(b, n, g, u, k)`.
        values: `(b, n, g, u, v)`.
        normalization: as in `normalize_keys`.
        visible: bools, `(b, n)`. The other positions are seen by none.
        block_size: number of positions in a block.

    Returns:
        `(b, n, g, j, v)`.
    """
    length = keys.shape[1]
    block_size = min(block_size, length)
    blocks = -(-length // block_size)
    if visible is None:
        visible = ops.ones(ops.shape(keys)[:2], "bool")

    def split(tensor):
        padding = [(0, 0)] * len(tensor.shape)
        padding[1] = (0, blocks * block_size - length)
        tensor = ops.pad(tensor, padding)
        return ops.reshape(tensor, (-1, block_size, *tensor.shape[2:]))

    queries, keys, values = map(split, (queries, keys, values))
    visible = ops.cast(split(ops.cast(visible, "int32")), "bool")
    past = _sum_earlier_blocks(keys, values, normalization, visible, blocks)
    outputs = _apply_block(queries, keys, values, normalization, visible, past)
    shape = (-1, blocks * block_size, *outputs.shape[2:])
    return ops.reshape(outputs, shape)[:, :length]


def _sum_earlier_blocks(keys, values, normalization, visible, blocks):
    """Returns `RunningSums` of all blocks before each, `(b * blocks, 1, ...)`.

    Keys, values and visible have the blocks in their batch, `(b * blocks,
    block_size, ...)`.
    """
    *_, groups, intra_depth, key_dim = keys.shape
    columns = groups * intra_depth * key_dim
    seen = visible[:, :, None, None, None]
    if normalization == "softmax":
        keys = ops.where(seen, keys, LOWEST)
        peaks = ops.stop_gradient(ops.max(keys, axis=1, keepdims=True))
        weights = ops.where(seen, ops.exp(keys - peaks), 0.0)
        totals = ops.sum(weights, axis=1)
    else:
        weights = ops.where(seen, keys, 0.0)
        totals = ops.sum(weights * weights, axis=1)
        peaks = ops.zeros_like(totals)
    lambdas = ops.einsum("bmguk,bmguv->bgukv", weights, values)
    shape = (-1, blocks, columns)
    sums = RunningSums(
        ops.reshape(peaks, (*shape, 1)),
        ops.reshape(totals, (*shape, 1)),
        ops.reshape(lambdas, (*shape, values.shape[-1])),
    )
    sums = accumulate_sums(sums, axis=1)
    sums = _slice_sums(_pad_sums(sums, 1, 1, 0), 1, 0, blocks)
    return RunningSums(*(ops.reshape(t, (-1, 1, *t.shape[2:])) for t in sums))


def _apply_block(queries, keys, values, normalization, visible, past):
    """Applies the content of the past and of the block up to each query."""
    block_size, *depths = keys.shape[1:]
    columns = math.prod(depths)
    before = ops.convert_to_tensor(np.tril(np.ones((block_size,) * 2, bool)))
    seen = (visible[:, None] & before)[..., None]  # (b, n, m, 1)
    keys = ops.reshape(keys, (-1, 1, block_size, columns))
    past_peaks, past_totals = past.peaks[..., 0], past.totals[..., 0]
    if normalization == "softmax":
        keys = ops.where(seen, keys, LOWEST)
        peaks = ops.maximum(ops.max(keys, axis=2), past_peaks)
        # The result does not depend on the peaks, so neither does a gradient.
        peaks = ops.stop_gradient(peaks)  # (b, n, c)
        weights = ops.exp(keys - peaks[:, :, None])
        weights = ops.where(seen, weights, 0.0)
        past_scale = ops.exp(past_peaks - peaks)
        totals = ops.sum(weights, axis=2) + past_totals * past_scale
    else:
        weights = ops.where(seen, keys, 0.0)
        past_scale = ops.ones_like(past_totals)
        totals = ops.sum(weights * weights, axis=2) + past_totals
    scale = _invert_totals(totals, normalization)
    weights = weights * scale[:, :, None]
    weights = ops.reshape(weights, (-1, block_size, block_size, *depths))
    weights = ops.einsum("bngjk,bnmguk->bgnjmu", queries, weights)
    past_lambdas = ops.reshape(past.lambdas, (-1, *depths, values.shape[-1]))
    past_scale = ops.reshape(scale * past_scale, (-1, block_size, *depths))
    return apply_weights(weights, values) + ops.einsum(
        "bngjk,bnguk,bgukv->bngjv", queries, past_scale, past_lambdas
    )


def _invert_totals(totals, normalization):
    if normalization == "softmax":
        return 1.0 / ops.where(totals > 0, totals, 1.0)
    if normalization == "l2":
        return ops.rsqrt(ops.maximum(totals, _TINY))
    return ops.ones_like(totals)


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
    return keys * _invert_totals(totals, normalization)


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
