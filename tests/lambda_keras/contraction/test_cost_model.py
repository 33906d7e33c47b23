"""The cost model: exact counts, and the orders it chooses."""

import math

import pytest

from lambda_keras.contraction import cost_model
from lambda_keras.contraction.cost_model import Blocks
from lambda_keras.contraction.cost_model import Plan
from lambda_keras.contraction.offsets import Geometry
from lambda_keras.contraction.offsets import Strides
from lambda_keras.contraction.orders import ORDERS


def make_sizes(size, filters, scope_size=None, batch=8, num_heads=4, rank=2):
    """Sizes of a layer on a square grid, global without a scope."""
    scope = 2 * size - 1 if scope_size is None else scope_size
    return cost_model.Sizes(
        batch=batch,
        geometry=Geometry(
            query_grid=(size,) * rank,
            context_grid=(size,) * rank,
            centers=(scope // 2,) * rank,
            strides=Strides(),
        ),
        scopes=(scope,) * rank,
        groups=1,
        shared=num_heads,
        key_dim=16,
        intra_depth=1,
        value_dim=filters // num_heads,
    )


def replace_geometry(sizes, **replaced):
    return sizes._replace(geometry=sizes.geometry._replace(**replaced))


@pytest.mark.parametrize("scope_size", [None, 3, 5])
@pytest.mark.parametrize("block_rows", [1, 2, 4, 7])
def test_queries_first_counts_the_pairs_of_its_bands(scope_size, block_rows):
    sizes = make_sizes(7, filters=20, scope_size=scope_size, batch=3)
    reach = 6 if scope_size is None else scope_size // 2
    pairs = 0
    for first in range(0, 7, block_rows):
        block = range(first, first + block_rows)
        rows = {row for y in block for row in range(7) if abs(row - y) <= reach}
        pairs += block_rows * 7 * len(rows) * 7
    blocks = Blocks("query_rows", block_rows)
    plan = Plan("queries_first", blocks, blocks)
    cost = cost_model.estimate_cost(plan, sizes)
    assert cost.multiply_adds == 3 * pairs * 4 * (16 + 5)
    assert cost.blocks == math.ceil(7 / block_rows)
    cost = cost_model.estimate_gradient_cost(plan, sizes)
    assert cost.multiply_adds == 3 * pairs * 4 * (3 * 16 + 2 * 5)


@pytest.mark.parametrize("offset_rows", [1, 2, 5, 13])
@pytest.mark.parametrize(
    ("scope_size", "offsets", "key_dims"),
    [
        (3, 3, 16),
        (5, 5, 16),
        # All rows are in reach, each of them ahead or behind.
        (None, 7, 2 * 16),
    ],
)
def test_offset_rows_count_the_pairs_of_whole_blocks(
    scope_size, offsets, key_dims, offset_rows
):
    sizes = make_sizes(7, filters=20, scope_size=scope_size, batch=3)
    offset_rows = min(offset_rows, offsets)
    blocks = math.ceil(offsets / offset_rows)
    pairs = 7 * 7 * 7 * blocks * offset_rows
    kind = Blocks("offset_rows", offset_rows)
    plan = Plan("queries_first", kind, kind)
    cost = cost_model.estimate_cost(plan, sizes)
    assert cost.multiply_adds == 3 * pairs * 4 * (key_dims + 5)
    cost = cost_model.estimate_gradient_cost(plan, sizes)
    assert cost.multiply_adds == 3 * pairs * 4 * (3 * key_dims + 2 * 5)


def test_blocks_have_no_more_offset_rows_than_the_ring():
    rows = {
        scope_size: [
            blocks.rows
            for blocks in cost_model.list_blocks(make_sizes(7, 20, scope_size))
            if blocks.kind == "offset_rows"
        ]
        for scope_size in (3, None)
    }
    assert rows == {3: [1, 2, 3], None: [1, 2, 4, 7]}


def test_lambdas_first_counts_all_pairs_and_the_application():
    cost = cost_model.estimate_cost(
        Plan("lambdas_first"), make_sizes(7, filters=20, batch=3)
    )
    assert cost.multiply_adds == 3 * 49 * (49 * 16 * 5 + 4 * 16 * 5)


def test_convolution_counts_its_kernel_and_the_application():
    cost = cost_model.estimate_cost(
        Plan("convolution"), make_sizes(7, filters=20, scope_size=3, batch=3)
    )
    assert cost.multiply_adds == 3 * 49 * (9 * 16 * 5 + 4 * 16 * 5)
    assert cost.peak_bytes == 2 * 3 * 49 * 16 * 5 * 4


@pytest.mark.parametrize(
    ("sizes", "order"),
    [
        (make_sizes(56, 64, 7), "convolution"),
        (make_sizes(56, 64, 23), "convolution"),
        (make_sizes(28, 128, 7), "convolution"),
        (make_sizes(28, 128, 23), "queries_first"),
        (make_sizes(28, 128, 23, batch=1), "convolution"),
        (make_sizes(28, 256, 23), "queries_first"),
        (make_sizes(14, 256, 7), "queries_first"),
        (make_sizes(14, 256, 7, batch=1), "convolution"),
        (make_sizes(14, 256, 23), "queries_first"),
        (make_sizes(7, 512, 23), "queries_first"),
        (make_sizes(28, 128), "queries_first"),
        (make_sizes(64, 256, batch=1), "queries_first"),
        # Many queries share a lambda.
        (make_sizes(28, 256, num_heads=32), "lambdas_first"),
    ],
)
def test_choice_is_what_was_measured_to_be_fastest(sizes, order):
    assert cost_model.choose_plan(sizes).order == order


def test_small_maps_are_one_block_and_large_ones_go_row_by_row():
    small = cost_model.choose_plan(make_sizes(7, 512))
    assert small.blocks == small.gradient_blocks == Blocks("query_rows", 7)
    large = cost_model.choose_plan(make_sizes(64, 256))
    assert large.blocks == large.gradient_blocks == Blocks("query_rows", 1)


@pytest.mark.parametrize(
    ("sizes", "kind", "gradient_kind"),
    [
        (make_sizes(7, 512, batch=1), "query_rows", "query_rows"),
        (make_sizes(14, 256, batch=1), "query_rows", "offset_rows"),
        (make_sizes(28, 128, batch=1), "offset_rows", "offset_rows"),
        (make_sizes(28, 128, batch=8), "query_rows", "query_rows"),
        (make_sizes(28, 128, 23, batch=8), "query_rows", "query_rows"),
        (make_sizes(32, 512, batch=1), "offset_rows", "offset_rows"),
        (make_sizes(32, 512, 7, batch=1), "offset_rows", "offset_rows"),
        (make_sizes(32, 512, 23, batch=1), "offset_rows", "offset_rows"),
        (make_sizes(64, 256, batch=1), "offset_rows", "offset_rows"),
        (make_sizes(64, 256, batch=4), "query_rows", "offset_rows"),
    ],
)
def test_blocks_are_what_was_measured_to_be_fastest(sizes, kind, gradient_kind):
    plan = cost_model.choose_plan(sizes)
    assert plan.blocks.kind == kind
    assert plan.gradient_blocks.kind == gradient_kind


def test_single_row_has_one_block():
    sizes = replace_geometry(
        make_sizes(1, 8)._replace(scopes=(2, 2)),
        context_grid=(2, 2),
        centers=(0, 0),
        strides=Strides(2, 1),
    )
    plan = cost_model.choose_plan(sizes, "queries_first")
    assert plan.blocks == plan.gradient_blocks == Blocks("query_rows", 1)


def test_strided_grids_have_no_offset_rows():
    sizes = replace_geometry(
        make_sizes(64, 256, batch=1),
        context_grid=(32, 32),
        strides=Strides(1, 2),
    )
    kinds = {blocks.kind for blocks in cost_model.list_blocks(sizes)}
    assert kinds == {"query_rows"}


@pytest.mark.parametrize("order", ORDERS)
def test_order_overrides_the_choice(order):
    assert cost_model.choose_plan(make_sizes(14, 64, 7), order).order == order


def test_peak_of_large_maps_is_that_of_a_block():
    pairs_of_positions = 4096**2
    sizes = make_sizes(64, 256, batch=1)
    cost = cost_model.estimate_cost(cost_model.choose_plan(sizes), sizes)
    assert cost.peak_bytes < 4 * pairs_of_positions


def test_order_that_needs_too_much_at_once_is_not_taken(monkeypatch):
    sizes = make_sizes(56, 64, 7)
    assert cost_model.choose_plan(sizes).order == "convolution"
    monkeypatch.setattr(cost_model, "LARGEST_PEAK", 2**22)
    chosen = cost_model.choose_plan(sizes)
    assert chosen.order == "queries_first"


def test_unknown_grid_takes_the_convolution():
    sizes = replace_geometry(
        make_sizes(7, 20, 3), query_grid=(None, 7), context_grid=(None, 7)
    )
    assert cost_model.choose_plan(sizes) == Plan("convolution")


def test_unknown_batch_is_charged_as_a_typical_one():
    costs = [
        cost_model.estimate_cost(
            Plan("lambdas_first"), make_sizes(7, 20, batch=n)
        )
        for n in (None, 8)
    ]
    assert costs[0] == costs[1]


@pytest.mark.parametrize("size", [28, 32, 64, 128])
@pytest.mark.parametrize("scope_size", [23, None])
def test_unknown_batch_unrolls_few_blocks(size, scope_size):
    sizes = make_sizes(size, 256, scope_size, batch=None)
    plan = cost_model.choose_plan(sizes, "queries_first")
    for kind, rows in (plan.blocks, plan.gradient_blocks):
        assert kind == "offset_rows" or size / rows <= 16


def test_unknown_batch_unrolls_few_blocks_of_strided_grids():
    sizes = replace_geometry(
        make_sizes(64, 256, batch=None),
        context_grid=(32, 32),
        strides=Strides(1, 2),
    )
    rows = [blocks.rows for blocks in cost_model.list_blocks(sizes)]
    assert rows == [4, 8, 16, 32, 64]


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("batch", [1, 8, None])
def test_without_loops_all_offset_rows_are_one_block(size, batch):
    sizes = make_sizes(size, 512, batch=batch)
    with cost_model.without_loops():
        blocks = cost_model.choose_plan(sizes, "queries_first").blocks
        assert blocks.kind == "query_rows" or blocks.rows == size
        assert Blocks("offset_rows", size) in cost_model.list_blocks(sizes)
        assert Blocks("offset_rows", 1) not in cost_model.list_blocks(sizes)
    assert Blocks("offset_rows", 1) in cost_model.list_blocks(sizes)


def test_orders_in_pairs_refuse_a_grid_of_unknown_size():
    sizes = replace_geometry(make_sizes(7, 20, 3), query_grid=(None, 7))
    with pytest.raises(ValueError, match="only on grids of known size"):
        cost_model.choose_plan(sizes, "queries_first")


def test_convolution_refuses_two_grids():
    sizes = replace_geometry(make_sizes(7, 20, 3), context_grid=(14, 14))
    with pytest.raises(ValueError, match="on one grid"):
        cost_model.choose_plan(sizes, "convolution")
