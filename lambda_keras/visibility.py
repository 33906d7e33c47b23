"""What each query sees: masks of positions, masks of pairs, causal masks.

The axis key of `functional.py` holds here.
"""

import itertools
import math
from typing import Any
from typing import NamedTuple

import numpy as np
from keras import ops


class Visibility(NamedTuple):
    """Which context positions each query sees.

    Attributes:
        padding: bools `(b, m)`, or `None` where no position is hidden.
        pairs: bools `(b, n, m)`, or `None` where the queries do not differ.
        causal: whether a query sees only the positions up to its own.
    """

    padding: Any = None
    pairs: Any = None
    causal: bool = False


def flatten_mask(mask, *ranks):
    """Flattens the grids that follow a mask's batch axis.

    Args:
        mask: `(b, *grid, ...)`.
        *ranks: the rank of each grid.

    Returns:
        Bools, `(b, positions, ...)`.
    """
    shape = ops.shape(mask)
    sizes, start = [], 1
    for rank in ranks:
        sizes.append(math.prod(shape[start : start + rank]))
        start += rank
    # Only one of the sizes may be left to infer, and the batch needs it most.
    return ops.cast(ops.reshape(mask, (-1, *sizes)), "bool")


def tell_masks_apart(mask, inputs, context):
    """Tells a mask of positions from a mask of pairs, by its rank.

    Args:
        mask: `None` or a mask, as a lambda layer takes it.
        inputs: `(b, *grid, channels)`.
        context: `(b, *context_grid, channels)`.

    Returns:
        The mask of positions as it came and that of pairs as bools `(b, n,
        m)`, of which at least one is `None`.

    Raises:
        ValueError: If the mask is neither.
    """
    if mask is None:
        return None, None
    rank, context_rank = (len(tensor.shape) - 2 for tensor in (inputs, context))
    if len(mask.shape) == 1 + rank:
        return mask, None
    if len(mask.shape) == 1 + rank + context_rank:
        return None, flatten_mask(mask, rank, context_rank)
    raise ValueError(
        "`mask` must have the shape (batch_size, *grid) to hide positions, "
        "or (batch_size, *grid, *context_grid) to hide them from some "
        f"queries. Received: a mask of shape {tuple(mask.shape)} for "
        f"inputs of shape {tuple(inputs.shape)} and a context of shape "
        f"{tuple(context.shape)}"
    )


def check_causal(query_grid, context_grid):
    """Raises a `ValueError` if a causal mask has no meaning on the grids."""
    if tuple(query_grid) != tuple(context_grid):
        raise ValueError(
            "`use_causal_mask` needs inputs and context on the same grid, "
            "because a query sees what does not come after its own "
            f"position. Received: grids {tuple(query_grid)} and "
            f"{tuple(context_grid)}"
        )


def hide_values(values, padding):
    """Sets to zero the values of hidden positions.

    Args:
        values: `(b, ..., g, u, v)`.
        padding: bools `(b, m)`, or `None` where no position is hidden.

    Returns:
        The values in their shape.
    """
    if padding is None:
        return values
    grid = ops.shape(values)[1:-3]
    return ops.where(ops.reshape(padding, (-1, *grid, 1, 1, 1)), values, 0.0)


def find_causal_offsets(scopes):
    """Marks the offsets that point at the query itself or before it.

    Args:
        scopes: odd numbers of offsets, one for each axis of the grid.

    Returns:
        NumPy bools of shape `scopes`, in row-major order of the positions.
    """
    centers = tuple(scope // 2 for scope in scopes)
    before = [
        index <= centers for index in itertools.product(*map(range, scopes))
    ]
    return np.reshape(before, scopes)


def find_visible(query_grid, context_grid, visibility, reach, strides):
    """Marks which context positions each query sees, by masks and position.

    Args:
        query_grid: sizes of the grid of the queries, which may be symbolic.
        context_grid: sizes of the grid of the context.
        visibility: a `Visibility`.
        reach: how far a query sees on each axis, in units of the finer grid.
            `None` for everywhere.
        strides: `Strides` of the two grids.

    Returns:
        Bools, `(b, n, m)`, of which all but the last axis may be 1.
    """
    count, context_count = math.prod(query_grid), math.prod(context_grid)
    numbers = ops.arange(count, dtype="int32")[:, None]
    context_numbers = ops.arange(context_count, dtype="int32")[None]
    visible = context_numbers >= 0  # (1, m)
    if visibility.causal:
        visible = numbers >= context_numbers  # (n, m)
    if reach is not None:
        near = _find_near(query_grid, context_grid, reach, strides)
        visible = visible & near  # (n, m)
    visible = visible[None]
    if visibility.padding is not None:
        visible = visible & visibility.padding[:, None]
    return visible if visibility.pairs is None else visible & visibility.pairs


def _find_near(query_grid, context_grid, reach, strides):
    """Marks the pairs of positions within reach, bools `(n, m)`."""
    queries = _list_positions(query_grid)[:, None]  # (n, 1, rank)
    contexts = _list_positions(context_grid)[None]  # (1, m, rank)
    distances = ops.abs(queries * strides.query - contexts * strides.context)
    return ops.all(distances <= reach, axis=-1)


def _list_positions(grid):
    """Lists the indices of all positions, ints `(n, rank)`."""
    axes = ops.meshgrid(
        *(ops.arange(size, dtype="int32") for size in grid), indexing="ij"
    )
    return ops.stack([ops.reshape(axis, (-1,)) for axis in axes], axis=-1)
