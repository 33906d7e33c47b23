"""Content lambdas: how the keys and values that a query sees are summed.

`apply_content` is the door, and decides by what the queries see:

    all the same                            one lambda for all of them
    ever more (causal masks)                sums that run from block to block
    a window around each (local scopes)     sums of windows, axis by axis
    anything else                           a weight for each pair

Sums are shared between queries, so that time is linear in the number of
positions in all but the last. The axis key of `functional.py` holds here.

Reference:
    - [Bello, 2021](https://arxiv.org/abs/2102.08602), section B.2
"""

import math
from typing import Any
from typing import NamedTuple

import numpy as np
from keras import ops

from lambda_keras import functional
from lambda_keras.functional import LOWEST
from lambda_keras.functional import find_peaks
from lambda_keras.functional import find_sizes
from lambda_keras.functional import flatten_grid
from lambda_keras.functional import invert_totals
from lambda_keras.functional import map_groups
from lambda_keras.visibility import find_visible


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


class SequenceState(NamedTuple):
    """What a step of a sequence needs to know of those before it.

    Its size does not grow with the steps.

    Attributes:
        peaks: `RunningSums.peaks` of all steps, `(b, 1, c, 1)`.
        totals: `RunningSums.totals`, `(b, 1, c, 1)`.
        lambdas: `RunningSums.lambdas`, `(b, 1, c, v)`.
        keys: those still within reach, the newest last, `(b, m, g, u, k)`,
            of which there are none where content has no bounds.
        values: those still within reach, `(b, m, g, u, v)`.
    """

    peaks: Any
    totals: Any
    lambdas: Any
    keys: Any
    values: Any


def apply_content(
    queries, keys, values, normalization, visibility, reach, strides
):
    """Applies to each query the content lambda of what it sees.

    Args:
        queries: `(b, ..., g, j, k)`.
        keys: `(b, ..., g, u, k)`.
        values: `(b, ..., g, u, v)`.
        normalization: as in `functional.compute_content_lambda`.
        visibility: a `Visibility`.
        reach: how far content is seen on each axis, in units of the finer
            grid. `None` for everywhere.
        strides: `Strides` of the two grids.

    Returns:
        `(b, n, g, j, v)`.
    """
    has_pairs = visibility.pairs is not None
    if not (has_pairs or visibility.causal or reach is not None):
        content_lambda = functional.compute_content_lambda(
            flatten_grid(keys),
            flatten_grid(values),
            normalization,
            visibility.padding,
        )
        return functional.apply_content_lambda(
            flatten_grid(queries), content_lambda
        )
    grid = find_sizes(values.shape[1:-3])
    is_one_grid = (
        find_sizes(queries.shape[1:-3]) == grid
        and strides.query == strides.context
    )
    if is_one_grid and not has_pairs and reach is not None:
        sums = sum_windows(keys, values, normalization, visibility, reach)
        lambdas = finish_sums(sums, normalization, keys.shape[-3:])
        return ops.matmul(flatten_grid(queries), lambdas)
    if is_one_grid and not has_pairs and None not in grid:
        return apply_causal_content(
            *map(flatten_grid, (queries, keys, values)),
            normalization,
            visibility.padding,
        )
    return _weigh_pairs(
        queries, keys, values, normalization, visibility, reach, strides
    )


def _weigh_pairs(
    queries, keys, values, normalization, visibility, reach, strides
):
    visible = _find_visible(queries, keys, visibility, reach, strides)

    def weigh_group(queries, keys, values):
        weights = functional.compute_content_weights(
            queries, keys, visible, normalization
        )
        return functional.apply_weights(weights, values)

    return map_groups(weigh_group, *map(flatten_grid, (queries, keys, values)))


def compute_content_weights(
    queries, keys, normalization, visibility, reach, strides
):
    """Computes how much of each value each query takes for its content.

    Args:
        As in `apply_content`.

    Returns:
        `(b, n, g, j, m, u)`.
    """
    visible = _find_visible(queries, keys, visibility, reach, strides)

    def weigh_group(queries, keys):
        return functional.compute_content_weights(
            queries, keys, visible, normalization
        )

    return map_groups(weigh_group, flatten_grid(queries), flatten_grid(keys))


def _find_visible(queries, keys, visibility, reach, strides):
    grids = ops.shape(queries)[1:-3], ops.shape(keys)[1:-3]
    return find_visible(*grids, visibility, reach, strides)


def start_sequence(sizes, normalization, reach, dtype):
    """Makes the state before the first step of a causal sequence.

    Args:
        sizes: sizes of b, of the window of values that a step looks at, and
            of g, u, k and v.
        normalization: as in `apply_content`.
        reach: as in `apply_content`.
        dtype: dtype of the state.

    Returns:
        A `SequenceState`.
    """
    batch_size, window, groups, intra_depth, key_dim, value_dim = sizes
    columns = groups * intra_depth * key_dim
    key_window = 0 if reach is None else window
    # Keys before the first step weigh nothing.
    key = LOWEST if normalization == "softmax" else 0

    def fill(value, *shape):
        return ops.full((batch_size, *shape), value, dtype)

    return SequenceState(
        peaks=fill(LOWEST, 1, columns, 1),
        totals=fill(0, 1, columns, 1),
        lambdas=fill(0, 1, columns, value_dim),
        keys=fill(key, key_window, groups, intra_depth, key_dim),
        values=fill(0, window, groups, intra_depth, value_dim),
    )


def push_step(state, keys, values):
    """Returns the state with the oldest keys and values gone for a step's.

    Args:
        state: a `SequenceState`.
        keys: `(b, 1, g, u, k)`, or `None` without content.
        values: `(b, 1, g, u, v)`.
    """

    def push(past, newest):
        if newest is None or past.shape[1] == 0:
            return past
        return ops.concatenate([past[:, 1:], newest], axis=1)

    return state._replace(
        keys=push(state.keys, keys), values=push(state.values, values)
    )


def step_content(state, keys, values, normalization, reach):
    """Makes the content lambda of one step of a causal sequence.

    Args:
        state: a `SequenceState` with the keys and the values of the step.
        keys: `(b, 1, g, u, k)`, those of the step.
        values: `(b, 1, g, u, v)`, those of the step.
        normalization: as in `apply_content`.
        reach: as in `apply_content`.

    Returns:
        The lambda, `(b, g, k, v)`, and the state with the sums of the step.
    """
    if reach is not None:
        content_lambda = functional.compute_content_lambda(
            state.keys, state.values, normalization
        )
        return content_lambda, state
    here = start_sums(keys, values, normalization)
    sums = merge_sums(RunningSums(*state[:3]), here)
    lambdas = finish_sums(sums, normalization, keys.shape[-3:])
    return lambdas[:, 0], state._replace(**sums._asdict())


def start_sums(keys, values, normalization, visible=None):
    """Makes the running sums of each context position alone.

    Args:
        keys: `(b, ..., g, u, k)`.
        values: `(b, ..., g, u, v)`.
        normalization: as in `apply_content`.
        visible: bools, `(b, m)`.

    Returns:
        `RunningSums`.
    """
    grid = ops.shape(keys)[1:-3]
    *_, groups, intra_depth, key_dim = keys.shape
    value_dim = values.shape[-1]
    columns = groups * intra_depth * key_dim
    keys = ops.reshape(keys, (-1, key_dim, 1))
    values = ops.reshape(values, (-1, 1, value_dim))
    if normalization == "softmax":
        peaks, totals = keys, ops.ones_like(keys)
        lambdas = totals * values
    else:
        peaks, totals = ops.zeros_like(keys), keys * keys
        lambdas = keys * values
    sums = RunningSums(
        ops.reshape(peaks, (-1, *grid, columns, 1)),
        ops.reshape(totals, (-1, *grid, columns, 1)),
        ops.reshape(lambdas, (-1, *grid, columns, value_dim)),
    )
    if visible is None:
        return sums
    visible = ops.reshape(visible, (-1, *grid, 1, 1))
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


def finish_sums(sums, normalization, depths):
    """Makes content lambdas of running sums.

    Args:
        sums: `RunningSums`.
        normalization: as in `apply_content`.
        depths: `(g, u, k)`.

    Returns:
        `(b, n, g, k, v)`, the positions flattened. A lambda of no positions
        is zero.
    """
    lambdas = sums.lambdas * invert_totals(sums.totals, normalization)
    _, *grid, _, value_dim = ops.shape(lambdas)
    groups, intra_depth, key_dim = depths
    lambdas = ops.reshape(
        lambdas, (-1, groups, intra_depth, key_dim, value_dim)
    )
    lambdas = ops.sum(lambdas, axis=2)
    shape = (-1, math.prod(grid), groups, key_dim, value_dim)
    return ops.reshape(lambdas, shape)


def sum_windows(keys, values, normalization, visibility, reach):
    """Sums, at each position, the content of the scope around it.

    Args:
        keys: `(b, ..., g, u, k)`, on a grid of any size, known or not.
        values: `(b, ..., g, u, v)`.
        normalization: as in `apply_content`.
        visibility: a `Visibility` without pairs. If it is causal, a position
            sees no further than to itself, in row-major order.
        reach: as in `apply_content`.

    Returns:
        `RunningSums` of the positions.
    """
    sums = start_sums(keys, values, normalization, visibility.padding)
    *earlier, last = range(1, len(keys.shape) - 3)
    if reach == 0:
        return sums
    if not visibility.causal:
        for axis in (*earlier, last):
            sums = slide_sums(sums, axis, reach, reach)
        return sums
    # What is before a position lies before it on the last axis, or anywhere
    # within reach there and before it on the axis before that, and so on.
    seen = slide_sums(sums, last, reach, 0)
    for axis in reversed(earlier):
        sums = slide_sums(sums, axis + 1, reach, reach)
        seen = merge_sums(slide_sums(sums, axis, reach, -1), seen)
    return seen


def slide_sums(sums, axis, before, after):
    """Merges, at each position of an axis, the sums in a window around it.

    The window's width costs its logarithm: windows of twice the width are two
    windows side by side.

    Args:
        sums: `RunningSums` of the positions.
        axis: axis of the positions.
        before: number of positions in the window before the position.
        after: number of positions in the window after the position; -1 for a
            window without the position itself.

    Returns:
        `RunningSums` of the same shapes.
    """
    _, *grid, _ = shape = ops.shape(sums.lambdas)[:-1]
    length, inner = shape[axis], math.prod(shape[axis + 1 :])
    window = before + 1 + after
    # Other axes stand in the batch or beside the columns: TensorFlow Lite
    # neither pads nor slices a volume with two axes more.
    doubled = _pad_sums(
        _reshape_sums(sums, (length, inner)), before, max(after, 0)
    )
    # `doubled` at i holds the 2^bit positions from i, `merged` at i all those
    # of the bits so far.
    merged, width = None, 0
    for bit in range(window.bit_length()):
        size = 2**bit
        if window & size:
            part = _slice_sums(doubled, width, None)
            if merged is not None:
                count = ops.shape(part.peaks)[1]
                part = merge_sums(_slice_sums(merged, 0, count), part)
            merged, width = part, width + size
        if 2 * size <= window:
            doubled = merge_sums(
                _slice_sums(doubled, 0, -size), _slice_sums(doubled, size, None)
            )
    return _reshape_sums(_slice_sums(merged, 0, length), (*grid, shape[-1]))


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
        normalization: as in `apply_content`.
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
        peaks = find_peaks(keys, axis=1)
        weights = ops.where(seen, ops.exp(keys - peaks), 0.0)
        totals = ops.sum(weights, axis=1)
    else:
        weights = ops.where(seen, keys, 0.0)
        totals = ops.sum(weights * weights, axis=1)
        peaks = ops.zeros_like(totals)
    lambdas = ops.einsum("bmguk,bmguv->bgukv", weights, values)
    sums = _reshape_sums(RunningSums(peaks, totals, lambdas), (blocks, columns))
    sums = accumulate_sums(sums)
    sums = _slice_sums(_pad_sums(sums, 1, 0), 0, blocks)
    return _reshape_sums(sums, (1, columns))


def accumulate_sums(sums):
    """Merges, at each position, the sums of all up to it.

    Args:
        sums: `RunningSums` `(b, n, ...)`, `n` known.

    Returns:
        `RunningSums` of the same shapes.
    """
    length = sums.peaks.shape[1]
    step = 1
    while step < length:
        # Each position holds the sums of `step` positions, or of all up to it.
        shifted = _slice_sums(_pad_sums(sums, step, 0), 0, length)
        sums = merge_sums(shifted, sums)
        step *= 2
    return sums


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
        peaks = ops.maximum(find_peaks(keys, axis=2)[:, :, 0], past_peaks)
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
    return ops.einsum("bgnjmu,bmguv->bngjv", weights, values) + ops.einsum(
        "bngjk,bnguk,bgukv->bngjv", queries, past_scale, past_lambdas
    )


def _reshape_sums(sums, shape):
    """Reshapes the axes between the batch and the last one."""
    value_dim = sums.lambdas.shape[-1]
    return RunningSums(
        ops.reshape(sums.peaks, (-1, *shape, 1)),
        ops.reshape(sums.totals, (-1, *shape, 1)),
        ops.reshape(sums.lambdas, (-1, *shape, value_dim)),
    )


def _pad_sums(sums, before, after):
    """Adds sums of nothing at either end of the second axis."""
    padding = [(0, 0), (before, after), (0, 0), (0, 0)]
    return RunningSums(
        ops.pad(sums.peaks, padding, constant_values=LOWEST),
        ops.pad(sums.totals, padding),
        ops.pad(sums.lambdas, padding),
    )


def _slice_sums(sums, start, stop):
    """Slices the second axis."""
    return RunningSums(*(tensor[:, start:stop] for tensor in sums))
