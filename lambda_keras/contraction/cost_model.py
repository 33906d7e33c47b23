"""Which order of contraction is the cheapest, from the sizes alone.

An order is charged for its multiply-adds, for the bytes that it moves between
memory and processor, and for the operations that it starts; and so are the two
gradients that the queries first have. The weights of the
three were fitted to two cores of a processor with AVX-512; on other machines
they are a guess, which the layers' `contraction_order` argument overrides.
"""

import math
from typing import NamedTuple

from lambda_keras.contraction.offset_rows import make_ring
from lambda_keras.contraction.offsets import Geometry
from lambda_keras.contraction.offsets import Strides
from lambda_keras.contraction.offsets import find_bands

ORDERS = ("queries_first", "lambdas_first", "convolution")

# What a machine computes while it moves a byte, and while it starts the
# operations of one block.
_MULTIPLY_ADDS_A_BYTE = 3
_MULTIPLY_ADDS_A_BLOCK = 12_000_000
# A block of offset rows is as many operations as this many others.
_OPERATIONS_OF_OFFSET_ROWS = 2
# Times that lambdas are written or read.
_LAMBDA_PASSES = 6


class _Passes(NamedTuple):
    """How often things happen in a block where the queries come first.

    Attributes:
        operations: how many times those of a forward block are started.
        key_products: products of weights with channels of keys.
        value_products: products of weights with values.
        weights: times that weights are written or read, in blocks of query
            rows.
        embeddings: those of embeddings, which are gathered, and summed by
            offset.
        offset_weights: those of weights in blocks of offset rows.
        offset_values: those of the values, queries and outputs there.
    """

    operations: int
    key_products: int
    value_products: int
    weights: int
    embeddings: int
    offset_weights: int
    offset_values: int

    def count_products(self, key_dim, value_dim):
        """Returns the multiply-adds of a weight."""
        return self.key_products * key_dim + self.value_products * value_dim


_FORWARD = _Passes(
    operations=1,
    key_products=1,
    value_products=1,
    weights=2,
    embeddings=5,
    offset_weights=2,
    offset_values=4,
)
# The weights are made once more, differentiated, and the values, queries and
# embeddings differentiated with them.
_GRADIENT = _Passes(
    operations=3,
    key_products=3,
    value_products=2,
    weights=7,
    embeddings=12,
    offset_weights=10,
    offset_values=3,
)
# Bytes that stay near the processor, and how much more all take for each time
# that they double.
_CACHE = 2**24
_SHARE_BEYOND_CACHE = 3 / 16
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
        most = _make_ring(sizes, sizes.scopes[0]).offset_rows
        blocks += [Blocks("offset_rows", rows) for rows in _halve(most)]
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
    return _estimate_blocks(plan.blocks, sizes, _FORWARD)


def estimate_gradient_cost(plan, sizes):
    """Estimates what the gradient of a plan takes.

    Args:
        plan: a `Plan` of the order `"queries_first"`.
        sizes: `Sizes` with known grids.

    Returns:
        A `Cost`.
    """
    return _estimate_blocks(plan.gradient_blocks, sizes, _GRADIENT)


def _estimate_blocks(blocks, sizes, passes):
    if blocks.kind == "offset_rows":
        return _estimate_offset_rows(sizes, blocks.rows, passes)
    return _estimate_query_rows(sizes, blocks.rows, passes)


def _estimate_query_rows(sizes, block_rows, passes):
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
        multiply_adds=weights
        * seen
        * passes.count_products(sizes.key_dim, sizes.value_dim),
        bytes_moved=moved * seen * _FLOAT,
        peak_bytes=(2 * weights + embeddings) * most_seen * _FLOAT,
        blocks=blocks * passes.operations,
    )


def _estimate_offset_rows(sizes, offset_rows, passes):
    rows, *columns = sizes.query_grid
    context_columns = sizes.context_grid[1:]
    ring = _make_ring(sizes, offset_rows)
    # Rows of queries with each row of offsets, in all blocks.
    pairs = ring.rows * ring.offset_rows * ring.blocks
    context = math.prod(context_columns) * sizes.intra_depth
    heads = _batch(sizes) * sizes.groups
    queries = heads * sizes.shared * math.prod(columns)
    weights = queries * context * pairs
    key_dim = sizes.key_dim * ring.sides
    moved = pairs * (heads * context * sizes.value_dim + queries * key_dim)
    moved += ring.blocks * rows * queries * sizes.value_dim
    return Cost(
        multiply_adds=weights * passes.count_products(key_dim, sizes.value_dim),
        bytes_moved=_FLOAT
        * (weights * passes.offset_weights + moved * passes.offset_values),
        peak_bytes=2 * weights // ring.blocks * _FLOAT,
        blocks=_OPERATIONS_OF_OFFSET_ROWS * passes.operations * ring.blocks,
    )


def _make_ring(sizes, offset_rows):
    geometry = Geometry(
        sizes.query_grid, sizes.context_grid, sizes.centers, sizes.strides
    )
    return make_ring(sizes.scopes[0], geometry, offset_rows)


def _estimate_lambdas_first(sizes):
    lambdas = _count_lambdas(sizes)
    context = math.prod(sizes.context_grid) * sizes.intra_depth
    pairs = math.prod(sizes.query_grid) * context
    embeddings = sizes.groups * pairs * sizes.key_dim * _FLOAT
    return Cost(
        multiply_adds=lambdas * (context + sizes.shared),
        bytes_moved=lambdas * _FLOAT * _LAMBDA_PASSES
        + embeddings * _FORWARD.embeddings,
        peak_bytes=2 * lambdas * _FLOAT + embeddings,
        blocks=1,
    )


def _estimate_convolution(sizes):
    lambdas = _count_lambdas(sizes)
    scope = math.prod(sizes.scopes) * sizes.intra_depth
    return Cost(
        multiply_adds=lambdas * (scope + sizes.shared),
        bytes_moved=lambdas * _FLOAT * _LAMBDA_PASSES,
        peak_bytes=2 * lambdas * _FLOAT,
        blocks=sizes.groups,
    )


def _count_lambdas(sizes):
    """Returns how many numbers the lambdas of the batch hold."""
    depths = sizes.groups * sizes.key_dim * sizes.value_dim
    return _batch(sizes) * math.prod(sizes.query_grid) * depths


def _batch(sizes):
    return sizes.batch or _TYPICAL_BATCH
