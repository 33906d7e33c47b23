"""Content lambdas of queries that do not all see the same.

Where what the queries see grows along the positions (causal masks) or slides
over them (local scopes), sums are shared between queries, so that time is
linear in the number of positions. The axis key of `functional.py` holds here.

Reference:
    - [Bello, 2021](https://arxiv.org/abs/2102.08602), section B.2
"""

import math
from typing import Any
from typing import NamedTuple

import numpy as np
from keras import ops

from lambda_keras.functional import LOWEST
from lambda_keras.functional import apply_weights
from lambda_keras.functional import invert_totals


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
        normalization: as in `compute_content_lambda`.
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
        normalization: as in `compute_content_lambda`.
        depths: `(g, u, k)`.

    Returns:
        `(b, n, g, k, v)`, the positions flattened. A lambda of no positions
        is zero.
    """
    lambdas = sums.lambdas * invert_totals(sums.totals, normalization)
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
        normalization: as in `compute_content_lambda`.
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
    scale = invert_totals(totals, normalization)
    weights = weights * scale[:, :, None]
    weights = ops.reshape(weights, (-1, block_size, block_size, *depths))
    weights = ops.einsum("bngjk,bnmguk->bgnjmu", queries, weights)
    past_lambdas = ops.reshape(past.lambdas, (-1, *depths, values.shape[-1]))
    past_scale = ops.reshape(scale * past_scale, (-1, block_size, *depths))
    return apply_weights(weights, values) + ops.einsum(
        "bngjk,bnguk,bgukv->bngjv", queries, past_scale, past_lambdas
    )


def apply_lambdas(queries, lambdas):
    """Applies each query's own lambda.

    Args:
        queries: `(b, ..., g, j, k)`.
        lambdas: `(b, ..., g, k, v)`.

    Returns:
        `(b, ..., g, j, v)`.
    """
    return ops.matmul(queries, lambdas)


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
