"""Which order of contraction is the cheapest, from the sizes alone.

An order is charged for its multiply-adds, for the bytes that it moves between
memory and processor, and for the operations that it starts. The weights of the
three were fitted to two cores of a processor with AVX-512; on other machines
they are a guess, which the layers' `contraction_order` argument overrides.
"""

import math
from typing import NamedTuple

from lambda_keras.offsets import Strides
from lambda_keras.offsets import find_bands

ORDERS = ("queries_first", "lambdas_first", "convolution")

# What a machine computes while it moves a byte, and while it starts the
# operations of one block.
_MULTIPLY_ADDS_A_BYTE = 3
_MULTIPLY_ADDS_A_BLOCK = 5_000_000
# Times that a tensor of weights or of lambdas is written or read.
_PASSES = 4
# The same for embeddings, which are gathered.
_EMBEDDING_PASSES = 6
# Bytes that stay near the processor, and how much more all take for each time
# that they double.
_CACHE = 2**24
_SHARE_BEYOND_CACHE = 1 / 8
# Orders that need more at once are taken only where all do: 1 GiB.
_LARGEST_PEAK = 2**30
_FLOAT = 4
# Stands for a batch size that is not known.
_TYPICAL_BATCH = 8


class Sizes(NamedTuple):
    """What the cost of position lambdas depends on.

    Attributes:
        batch: batch size, `None` where it is unknown.
        query_grid: sizes of the grid of the queries.
        context_grid: sizes of the grid of the context.
        scopes: number of offsets on each axis of the grid.
        centers: index of the offset 0 on each axis.
        strides: steps of the two grids.
        groups: lambdas a position.
        shared: queries that share a lambda.
        key_dim: depth of the keys.
        intra_depth: values a position that are summed into a lambda.
        value_dim: depth of the values.
    """

    batch: int | None
    query_grid: tuple
    context_grid: tuple
    scopes: tuple
    centers: tuple
    strides: Strides
    groups: int
    shared: int
    key_dim: int
    intra_depth: int
    value_dim: int


def measure(queries, values, table, centers, strides):
    """Returns the `Sizes` of tensors, as `contract_position_lambdas` takes."""
    return Sizes(
        queries.shape[0],
        tuple(queries.shape[1:-3]),
        tuple(values.shape[1:-3]),
        tuple(table.shape[:-3]),
        tuple(centers),
        strides,
        *queries.shape[-3:],
        *values.shape[-2:],
    )


class Cost(NamedTuple):
    """What an order takes, forward, for the whole batch.

    Attributes:
        multiply_adds: number of multiply-adds.
        bytes_moved: bytes written and read.
        peak_bytes: bytes of the largest tensors that live at once.
        blocks: number of blocks, one after the other.
    """

    multiply_adds: int
    bytes_moved: int
    peak_bytes: int
    blocks: int

    def total(self):
        """Returns the cost in multiply-adds."""
        doublings = math.log2(max(self.peak_bytes / _CACHE, 1))
        distance = 1 + doublings * _SHARE_BEYOND_CACHE
        return (
            self.multiply_adds
            + self.bytes_moved * _MULTIPLY_ADDS_A_BYTE * distance
            + self.blocks * _MULTIPLY_ADDS_A_BLOCK
        )


class Plan(NamedTuple):
    """How position lambdas are contracted.

    Attributes:
        order: one of `ORDERS`.
        block_rows: rows of the query grid that are taken at once, of the
            order `"queries_first"`.
    """

    order: str
    block_rows: int = 1


def choose_plan(sizes, order=None):
    """Chooses the cheapest plan.

    Args:
        sizes: `Sizes`.
        order: the order to plan for. `None` for the cheapest one.

    Returns:
        A `Plan`. On a grid of unknown size, where nothing can be laid out in
        pairs of positions, the convolution.

    Raises:
        ValueError: If the sizes do not allow the order.
    """
    plans = [
        plan
        for plan in list_plans(sizes)
        if order is None or plan.order == order
    ]
    if not plans:
        raise ValueError(
            "Position lambdas can be contracted by a convolution only where "
            "queries and context lie on one grid, and in another order only "
            "on grids of known size. Received: "
            f"contraction_order={order!r} for grids {sizes.query_grid} and "
            f"{sizes.context_grid}"
        )
    if len(plans) == 1:
        return plans[0]
    costs = {plan: estimate_cost(plan, sizes) for plan in plans}
    smallest = min(cost.peak_bytes for cost in costs.values())
    allowed = max(_LARGEST_PEAK, smallest)
    return min(
        (plan for plan in plans if costs[plan].peak_bytes <= allowed),
        key=lambda plan: costs[plan].total(),
    )


def list_plans(sizes):
    """Returns all plans that the sizes allow."""
    plans = [Plan("convolution")] if can_convolve(sizes) else []
    if None in (*sizes.query_grid, *sizes.context_grid):
        return plans
    rows = sizes.query_grid[0]
    counts = {math.ceil(rows / 2**power) for power in range(rows.bit_length())}
    plans += [Plan("queries_first", count) for count in sorted(counts | {1})]
    return [*plans, Plan("lambdas_first")]


def can_convolve(sizes):
    """Whether both grids are one and the offset 0 is in the middle."""
    return (
        sizes.strides == Strides()
        and sizes.query_grid == sizes.context_grid
        and all(
            scope == 2 * center + 1
            for scope, center in zip(sizes.scopes, sizes.centers, strict=True)
        )
    )


def estimate_cost(plan, sizes):
    """Estimates what a plan takes.

    Args:
        plan: a `Plan`.
        sizes: `Sizes` with known grids.

    Returns:
        A `Cost`.
    """
    if plan.order == "convolution":
        return _estimate_convolution(sizes)
    if plan.order == "lambdas_first":
        return _estimate_lambdas_first(sizes)
    return _estimate_queries_first(sizes, plan.block_rows)


def _estimate_queries_first(sizes, block_rows):
    rows, *columns = sizes.query_grid
    context_columns = math.prod(sizes.context_grid[1:]) * sizes.intra_depth
    blocks = math.ceil(rows / block_rows)
    bands = find_bands(
        sizes.scopes[0],
        sizes.centers[0],
        block_rows,
        sizes.context_grid[0],
        sizes.strides,
        blocks,
    )
    queries = sizes.groups * block_rows * math.prod(columns)
    seen = sum(band.count for band in bands) * context_columns
    most_seen = max(band.count for band in bands) * context_columns
    weights = _batch(sizes) * sizes.shared * queries * _FLOAT
    embeddings = queries * sizes.key_dim * _FLOAT
    return Cost(
        multiply_adds=weights
        // _FLOAT
        * seen
        * (sizes.key_dim + sizes.value_dim),
        bytes_moved=weights * seen * _PASSES
        + embeddings * seen * _EMBEDDING_PASSES,
        peak_bytes=(2 * weights + embeddings) * most_seen,
        blocks=blocks,
    )


def _estimate_lambdas_first(sizes):
    lambdas = _count_lambdas(sizes)
    context = math.prod(sizes.context_grid) * sizes.intra_depth
    pairs = math.prod(sizes.query_grid) * context
    embeddings = sizes.groups * pairs * sizes.key_dim * _FLOAT
    return Cost(
        multiply_adds=lambdas * (context + sizes.shared),
        bytes_moved=lambdas * _FLOAT * _PASSES + embeddings * _EMBEDDING_PASSES,
        peak_bytes=2 * lambdas * _FLOAT + embeddings,
        blocks=1,
    )


def _estimate_convolution(sizes):
    lambdas = _count_lambdas(sizes)
    scope = math.prod(sizes.scopes) * sizes.intra_depth
    return Cost(
        multiply_adds=lambdas * (scope + sizes.shared),
        bytes_moved=lambdas * _FLOAT * _PASSES,
        peak_bytes=2 * lambdas * _FLOAT,
        blocks=sizes.groups,
    )


def _count_lambdas(sizes):
    """Returns how many numbers the lambdas of the batch hold."""
    depths = sizes.groups * sizes.key_dim * sizes.value_dim
    return _batch(sizes) * math.prod(sizes.query_grid) * depths


def _batch(sizes):
    return sizes.batch or _TYPICAL_BATCH
