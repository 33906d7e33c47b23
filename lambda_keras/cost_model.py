"""Which order of contraction is the cheapest, from the sizes alone.

An order is charged for its multiply-adds, for the bytes that it moves between
memory and processor, and for the operations that it starts; and so are the two
gradients that the queries first have. The weights of the
three were fitted to two cores of a processor with AVX-512; on other machines
they are a guess, which the layers' `contraction_order` argument overrides.
"""

import math
from typing import NamedTuple

from lambda_keras.offset_rows import find_blocks
from lambda_keras.offsets import Strides
from lambda_keras.offsets import find_bands

ORDERS = ("queries_first", "lambdas_first", "convolution")

# What a machine computes while it moves a byte, and while it starts the
# operations of one block.
_MULTIPLY_ADDS_A_BYTE = 3
_MULTIPLY_ADDS_A_BLOCK = 5_000_000
# A block of offset rows is as many operations as this many others.
_OPERATIONS_OF_OFFSET_ROWS = 8


class _Passes(NamedTuple):
    """Operations a block, and times that tensors are written or read.

    Attributes:
        operations: how many times those of a forward block of query rows.
        weights: lambdas, or weights in blocks of query rows.
        embeddings: embeddings, which are gathered, and summed by offset.
        offset_weights: weights in blocks of offset rows.
        offset_values: what each row of offsets sees of the values, and what
            each block of them has of values and queries.
    """

    operations: int
    weights: int
    embeddings: int
    offset_weights: int
    offset_values: int


_FORWARD = _Passes(1, 4, 6, 11, 12)
_GRADIENT = _Passes(3, 9, 12, 9, 12)
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
        blocks: number of blocks, one after the other, in units of those that
            have the fewest operations.
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


class Blocks(NamedTuple):
    """What is computed at once where the queries come first.

    Attributes:
        kind: `"query_rows"` or `"offset_rows"`.
        rows: number of them.
    """

    kind: str
    rows: int


class Plan(NamedTuple):
    """How position lambdas are contracted.

    Attributes:
        order: one of `ORDERS`.
        blocks: `Blocks` of the order `"queries_first"`.
        gradient_blocks: those of its gradient.
    """

    order: str
    blocks: Blocks | None = None
    gradient_blocks: Blocks | None = None


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
    if None in (*sizes.query_grid, *sizes.context_grid):
        return plans[0]
    plan = _take_cheapest({plan: estimate_cost(plan, sizes) for plan in plans})
    if plan.order != "queries_first":
        return plan
    plans = [
        plan._replace(gradient_blocks=blocks) for blocks in list_blocks(sizes)
    ]
    return _take_cheapest(
        {plan: estimate_gradient_cost(plan, sizes) for plan in plans}
    )


def _take_cheapest(costs):
    smallest = min(cost.peak_bytes for cost in costs.values())
    allowed = max(_LARGEST_PEAK, smallest)
    return min(
        (plan for plan, cost in costs.items() if cost.peak_bytes <= allowed),
        key=lambda plan: costs[plan].total(),
    )


def list_plans(sizes):
    """Returns all plans that the sizes allow, without those of gradients."""
    plans = [Plan("convolution")] if can_convolve(sizes) else []
    if None in (*sizes.query_grid, *sizes.context_grid):
        return plans
    plans += [Plan("queries_first", blocks) for blocks in list_blocks(sizes)]
    return [*plans, Plan("lambdas_first")]


def list_blocks(sizes):
    """Returns all `Blocks` of queries that sizes with known grids allow."""
    blocks = [
        Blocks("query_rows", rows) for rows in _halve(sizes.query_grid[0])
    ]
    if sizes.strides == Strides():
        blocks += [
            Blocks("offset_rows", rows) for rows in _halve(sizes.scopes[0])
        ]
    return blocks


def _halve(size):
    return sorted(
        {math.ceil(size / 2**n) for n in range(size.bit_length())} | {1}
    )


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
    products = sizes.key_dim + sizes.value_dim
    return _estimate_blocks(plan.blocks, sizes, products, _FORWARD)


def estimate_gradient_cost(plan, sizes):
    """Estimates what the gradient of a plan takes.

    Args:
        plan: a `Plan` of the order `"queries_first"`.
        sizes: `Sizes` with known grids.

    Returns:
        A `Cost`.
    """
    # The weights are made once more, differentiated, and the values, queries
    # and embeddings differentiated with them.
    products = 3 * sizes.key_dim + 2 * sizes.value_dim
    return _estimate_blocks(plan.gradient_blocks, sizes, products, _GRADIENT)


def _estimate_blocks(blocks, sizes, products, passes):
    """Estimates blocks with so many multiply-adds a weight."""
    if blocks.kind == "offset_rows":
        return _estimate_offset_rows(sizes, blocks.rows, products, passes)
    return _estimate_query_rows(sizes, blocks.rows, products, passes)


def _estimate_query_rows(sizes, block_rows, products, passes):
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
    weights = _batch(sizes) * sizes.shared * queries
    embeddings = queries * sizes.key_dim
    moved = weights * passes.weights + embeddings * passes.embeddings
    return Cost(
        multiply_adds=weights * seen * products,
        bytes_moved=moved * seen * _FLOAT,
        peak_bytes=(2 * weights + embeddings) * most_seen * _FLOAT,
        blocks=blocks * passes.operations,
    )


def _estimate_offset_rows(sizes, block_rows, products, passes):
    rows, *columns = sizes.query_grid
    context_rows, *context_columns = sizes.context_grid
    blocks = find_blocks(
        sizes.scopes[0], sizes.centers[0], rows, context_rows, block_rows
    )
    # Rows of queries with each row of offsets.
    pairs = [block.count * block.rows for block in blocks]
    offsets = sum(block.count for block in blocks)
    context = math.prod(context_columns) * sizes.intra_depth
    heads = _batch(sizes) * sizes.groups
    queries = heads * sizes.shared * math.prod(columns)
    values = context_rows * heads * context * sizes.value_dim
    moved = (offsets + len(blocks)) * values
    moved += len(blocks) * rows * queries * sizes.key_dim
    weights = queries * context * sum(pairs)
    return Cost(
        multiply_adds=weights * products,
        bytes_moved=_FLOAT
        * (weights * passes.offset_weights + moved * passes.offset_values),
        peak_bytes=2 * queries * context * max(pairs) * _FLOAT,
        blocks=_OPERATIONS_OF_OFFSET_ROWS * len(blocks),
    )


def _estimate_lambdas_first(sizes):
    lambdas = _count_lambdas(sizes)
    context = math.prod(sizes.context_grid) * sizes.intra_depth
    pairs = math.prod(sizes.query_grid) * context
    embeddings = sizes.groups * pairs * sizes.key_dim * _FLOAT
    return Cost(
        multiply_adds=lambdas * (context + sizes.shared),
        bytes_moved=lambdas * _FLOAT * _FORWARD.weights
        + embeddings * _FORWARD.embeddings,
        peak_bytes=2 * lambdas * _FLOAT + embeddings,
        blocks=1,
    )


def _estimate_convolution(sizes):
    lambdas = _count_lambdas(sizes)
    scope = math.prod(sizes.scopes) * sizes.intra_depth
    return Cost(
        multiply_adds=lambdas * (scope + sizes.shared),
        bytes_moved=lambdas * _FLOAT * _FORWARD.weights,
        peak_bytes=2 * lambdas * _FLOAT,
        blocks=sizes.groups,
    )


def _count_lambdas(sizes):
    """Returns how many numbers the lambdas of the batch hold."""
    depths = sizes.groups * sizes.key_dim * sizes.value_dim
    return _batch(sizes) * math.prod(sizes.query_grid) * depths


def _batch(sizes):
    return sizes.batch or _TYPICAL_BATCH
