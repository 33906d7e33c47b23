"""Which order of contraction is the cheapest, from the sizes alone.

An order is charged for its multiply-adds, for the bytes that it moves between
memory and processor, and for the operations that it starts; and so are the two
gradients that the queries first have. The weights of the
three are a `Machine`'s; on a machine of another kind they are a guess, which
the layers' `contraction_order` argument overrides, and which
`python -m benchmarks.fit_cost_model` replaces.
"""

import contextlib
import contextvars
import math
from typing import NamedTuple

from lambda_keras.contraction.offset_rows import make_ring
from lambda_keras.contraction.offsets import Geometry
from lambda_keras.contraction.offsets import Strides
from lambda_keras.contraction.offsets import find_bands
from lambda_keras.functional import find_sizes


class Machine(NamedTuple):
    """What things cost on one kind of machine.

    Attributes:
        multiply_adds_per_byte: how many it computes while it moves a byte.
        multiply_adds_per_block: how many it computes while it starts the
            operations of one block.
        cache: bytes that stay near the processor.
        share_beyond_cache: how much more all bytes take for each time that
            those that live at once are twice the cache.
    """

    multiply_adds_per_byte: float
    multiply_adds_per_block: float
    cache: int
    share_beyond_cache: float


# Two cores of a server's processor, with TensorFlow.
AVX512 = Machine(
    multiply_adds_per_byte=3,
    multiply_adds_per_block=12_000_000,
    cache=2**24,
    share_beyond_cache=3 / 16,
)
# What follows counts what the code does, whatever it runs on.
# A block of offset rows starts as many operations as this many of query rows,
# for the turn of its ring and the loop.
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
# Orders that need more at once are taken only where all do: 1 GiB, so that a
# layer that is a little faster does not take a machine's memory.
LARGEST_PEAK = 2**30
_FLOAT = 4
# Stands for a batch size that is not known.
_TYPICAL_BATCH = 8
# A batch size is not known where a model is exported, and where it is fitted.
# Each block of query rows is some 50 operations of such a graph, forward, and
# a graph of thousands takes minutes to convert: blocks that are more than
# these are not taken. Up to 32 rows the best blocks of a typical batch are not
# more. On more rows so few blocks are large ones, whose embeddings take a batch
# of 1 four times as long as the loop of offset rows, which takes a batch of 8
# up to 1.4 times as long as the best blocks.
_MOST_UNROLLED = 16
_MOST_ROWS_UNROLLED = 32


# Whether plans may have loops, in this thread.
_allows_loops = contextvars.ContextVar("_allows_loops", default=True)


@contextlib.contextmanager
def without_loops():
    """Chooses plans that are no loops, as long as the context lasts.

    For converters that take none. Such plans need more memory, and what is
    computed of constants ahead of time more of a file.
    """
    token = _allows_loops.set(False)
    try:
        yield
    finally:
        _allows_loops.reset(token)


class Sizes(NamedTuple):
    """What the cost of position lambdas depends on.

    Attributes:
        batch: batch size, `None` where it is unknown.
        geometry: a `Geometry`, with `None` for sizes that are not known.
        scopes: number of offsets on each axis of the grid.
        groups: lambdas per position.
        shared: queries that share a lambda.
        key_dim: depth of the keys.
        intra_depth: values per position that are summed into a lambda.
        value_dim: depth of the values.
    """

    batch: int | None
    geometry: Geometry
    scopes: tuple
    groups: int
    shared: int
    key_dim: int
    intra_depth: int
    value_dim: int

    @property
    def has_known_grids(self):
        """Whether positions can be laid out in pairs."""
        geometry = self.geometry
        return None not in (*geometry.query_grid, *geometry.context_grid)


def measure(queries, values, table, geometry):
    """Returns the `Sizes` of tensors, as `contract_position_lambdas` takes."""
    batch, *_ = find_sizes(queries.shape)
    return Sizes(
        batch,
        geometry,
        find_sizes(table.shape[:-3]),
        *find_sizes(queries.shape[-3:]),
        *find_sizes(values.shape[-2:]),
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

    def total(self, machine=AVX512):
        """Returns the cost in multiply-adds."""
        # No step at the cache's size: what else is in it is not known.
        doublings = math.log2(max(self.peak_bytes / machine.cache, 1))
        distance = 1 + doublings * machine.share_beyond_cache
        return (
            self.multiply_adds
            + self.bytes_moved * machine.multiply_adds_per_byte * distance
            + self.blocks * machine.multiply_adds_per_block
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
        order: one of `orders.ORDERS`.
        blocks: `Blocks` of the order `"queries_first"`.
        gradient_blocks: those of its gradient.
    """

    order: str
    blocks: Blocks | None = None
    gradient_blocks: Blocks | None = None


def choose_plan(sizes, order=None, machine=AVX512):
    """Chooses the cheapest plan.

    Args:
        sizes: `Sizes`.
        order: the order to plan for. `None` for the cheapest one.
        machine: the `Machine` to plan for.

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
            f"contraction_order={order!r} for grids "
            f"{tuple(sizes.geometry.query_grid)} and "
            f"{tuple(sizes.geometry.context_grid)}"
        )
    if not sizes.has_known_grids:
        return plans[0]
    plan = _take_cheapest(
        {plan: estimate_cost(plan, sizes) for plan in plans}, machine
    )
    if plan.order != "queries_first":
        return plan
    plans = [
        plan._replace(gradient_blocks=blocks) for blocks in list_blocks(sizes)
    ]
    return _take_cheapest(
        {plan: estimate_gradient_cost(plan, sizes) for plan in plans}, machine
    )


def _take_cheapest(costs, machine):
    smallest = min(cost.peak_bytes for cost in costs.values())
    allowed = max(LARGEST_PEAK, smallest)
    return min(
        (plan for plan, cost in costs.items() if cost.peak_bytes <= allowed),
        key=lambda plan: costs[plan].total(machine),
    )


def list_plans(sizes):
    """Returns all plans that the sizes allow, without those of gradients."""
    plans = [Plan("convolution")] if can_convolve(sizes) else []
    if not sizes.has_known_grids:
        return plans
    plans += [Plan("queries_first", blocks) for blocks in list_blocks(sizes)]
    return [*plans, Plan("lambdas_first")]


def list_blocks(sizes):
    """Returns the `Blocks` of queries that sizes with known grids allow.

    With an unknown batch size those of them that serve small and large batches
    in a graph of bounded size.
    """
    geometry = sizes.geometry
    rows = geometry.query_grid[0]
    by_query = [Blocks("query_rows", count) for count in _halve(rows)]
    if sizes.batch is None:
        by_query = [
            blocks
            for blocks in by_query
            if math.ceil(rows / blocks.rows) <= _MOST_UNROLLED
        ]
    if geometry.strides != Strides():
        return by_query
    scope = sizes.scopes[0]
    most = make_ring(scope, geometry, scope).offset_rows
    counts = _halve(most) if _allows_loops.get() else [most]
    by_offset = [Blocks("offset_rows", count) for count in counts]
    if sizes.batch is None and rows > _MOST_ROWS_UNROLLED:
        return by_offset
    return by_query + by_offset


def _halve(size):
    return sorted(
        {math.ceil(size / 2**n) for n in range(size.bit_length())} | {1}
    )


def can_convolve(sizes):
    """Whether both grids are one and the offset 0 is in the middle."""
    geometry = sizes.geometry
    return (
        geometry.strides == Strides()
        and tuple(geometry.query_grid) == tuple(geometry.context_grid)
        and all(
            scope == 2 * center + 1
            for scope, center in zip(
                sizes.scopes, geometry.centers, strict=True
            )
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
    query_grid, context_grid, centers, strides = sizes.geometry
    rows, *columns = query_grid
    context_rows, *context_columns = context_grid
    context_columns = math.prod(context_columns) * sizes.intra_depth
    blocks = math.ceil(rows / block_rows)
    bands = find_bands(
        sizes.scopes[0], centers[0], block_rows, context_rows, strides, blocks
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
    rows, *columns = sizes.geometry.query_grid
    context_columns = sizes.geometry.context_grid[1:]
    ring = make_ring(sizes.scopes[0], sizes.geometry, offset_rows)
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


def _estimate_lambdas_first(sizes):
    lambdas = _count_lambdas(sizes)
    context = math.prod(sizes.geometry.context_grid) * sizes.intra_depth
    pairs = math.prod(sizes.geometry.query_grid) * context
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
    return _batch(sizes) * math.prod(sizes.geometry.query_grid) * depths


def _batch(sizes):
    return sizes.batch or _TYPICAL_BATCH
