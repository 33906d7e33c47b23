"""Every order of contraction equals loops over the definition."""

import functools
import itertools
import math

import keras
import numpy as np
import pytest

from lambda_keras import LambdaConv
from lambda_keras import LambdaLayer
from lambda_keras.contraction import convolution
from lambda_keras.contraction import cost_model
from lambda_keras.contraction import offset_rows
from lambda_keras.contraction import query_rows
from lambda_keras.contraction.cost_model import Blocks
from lambda_keras.contraction.cost_model import Plan
from lambda_keras.contraction.offsets import Geometry
from lambda_keras.contraction.offsets import Strides
from lambda_keras.contraction.orders import contract_by_plan
from tests.support import gradients

BATCH, KEY_DIM, VALUE_DIM = 2, 3, 5

# Grids of queries and context, and the steps that bring them together.
GRIDS = {
    "sequence": ((11,), (11,), Strides()),
    "image": ((7, 5), (7, 5), Strides()),
    "volume": ((3, 5, 2), (3, 5, 2), Strides()),
    "larger_context": ((5, 3), (7, 4), Strides()),
    "smaller_context": ((7, 4), (5, 3), Strides()),
    "coarse_context": ((6, 4), (3, 2), Strides(1, 2)),
    "fine_context": ((3, 2), (9, 6), Strides(3, 1)),
    "coarse_sequence": ((9,), (3,), Strides(1, 3)),
}
DEPTHS = {
    "multi_query": dict(groups=1, shared=2, intra_depth=1),
    "grouped": dict(groups=2, shared=3, intra_depth=2),
}
CONVOLVED = ("sequence", "image", "volume")
# The depths matter to no layout, so that two grids with few are enough.
PROBLEMS = [
    *((grids, "grouped") for grids in GRIDS),
    ("sequence", "multi_query"),
    ("image", "multi_query"),
]
BLOCKS = {
    "1_query_row": Blocks("query_rows", 1),
    "2_query_rows": Blocks("query_rows", 2),
    "4_query_rows": Blocks("query_rows", 4),
    "1_offset_row": Blocks("offset_rows", 1),
    "2_offset_rows": Blocks("offset_rows", 2),
    "9_offset_rows": Blocks("offset_rows", 9),
}


def allows(grids, blocks):
    """Whether grids can be taken in blocks, all by their names."""
    (rows, *_), _, strides = GRIDS[grids]
    kind, count = BLOCKS[blocks]
    return count <= rows if kind == "query_rows" else strides == Strides()


@functools.cache
def make_problem(grids, depths, scope_size):
    """Makes each problem once: its loops take longer than what they check."""
    return Problem(GRIDS[grids], scope_size, **DEPTHS[depths])


class Problem:
    """Random tensors, and what they contract to by loops."""

    def __init__(self, grids, scope_size, groups, shared, intra_depth):
        self.grid, self.context_grid, self.strides = grids
        if scope_size is None:
            self.centers = [
                (size - 1) * self.strides.query for size in self.grid
            ]
            after = [
                (size - 1) * self.strides.context for size in self.context_grid
            ]
            scopes = [
                center + 1 + reach
                for center, reach in zip(self.centers, after, strict=True)
            ]
        else:
            scopes = [scope_size] * len(self.grid)
            self.centers = [scope_size // 2] * len(self.grid)
        normal = np.random.default_rng(3).normal
        self.queries = normal(
            size=(BATCH, *self.grid, groups, shared, KEY_DIM)
        ).astype("float32")
        self.values = normal(
            size=(BATCH, *self.context_grid, groups, intra_depth, VALUE_DIM)
        ).astype("float32")
        self.table = normal(
            size=(*scopes, groups, intra_depth, KEY_DIM)
        ).astype("float32")
        self.upstream = normal(
            size=(BATCH, math.prod(self.grid), groups, shared, VALUE_DIM)
        ).astype("float32")

    def tensors(self):
        return self.queries, self.values, self.table

    @functools.cached_property
    def expected(self):
        """The outputs and the gradients of the three tensors."""
        queries, values, table = self.tensors()
        upstream = self.upstream.reshape(*queries.shape[:-1], VALUE_DIM)
        outputs = np.zeros(upstream.shape)
        by_queries, by_values, by_table = map(np.zeros_like, self.tensors())
        for n in np.ndindex(*self.grid):
            for m in np.ndindex(*self.context_grid):
                offset = tuple(
                    center
                    + there * self.strides.context
                    - here * self.strides.query
                    for center, here, there in zip(
                        self.centers, n, m, strict=True
                    )
                )
                if not all(
                    0 <= index < size
                    for index, size in zip(offset, table.shape, strict=False)
                ):
                    continue
                here, there = (slice(None), *n), (slice(None), *m)
                q, v, e = queries[here], values[there], table[offset]
                dy = upstream[here]
                outputs[here] += np.einsum("bgjk,guk,bguv->bgjv", q, e, v)
                by_queries[here] += np.einsum("bgjv,guk,bguv->bgjk", dy, e, v)
                by_values[there] += np.einsum("bgjv,bgjk,guk->bguv", dy, q, e)
                by_table[offset] += np.einsum("bgjv,bgjk,bguv->guk", dy, q, v)
        outputs = outputs.reshape(self.upstream.shape)
        return outputs, by_queries, by_values, by_table

    def check(self, plan):
        geometry = Geometry(
            self.grid, self.context_grid, self.centers, self.strides
        )

        def contract(queries, values, table):
            return contract_by_plan(queries, values, table, geometry, plan)

        results = gradients.compute(contract, self.tensors(), self.upstream)
        names = ("outputs", "queries", "values", "table")
        for name, result, expected in zip(
            names, results, self.expected, strict=True
        ):
            scale = np.abs(expected).max()
            np.testing.assert_allclose(
                result, expected, rtol=0, atol=1e-5 * scale, err_msg=name
            )


all_problems = pytest.mark.parametrize(("grids", "depths"), PROBLEMS)


@pytest.mark.parametrize("scope_size", [1, 3, 5, 11, None])
@pytest.mark.parametrize(
    ("grids", "depths", "blocks"),
    [
        (*problem, blocks)
        for problem, blocks in itertools.product(PROBLEMS, BLOCKS)
        if allows(problem[0], blocks)
    ],
)
def test_queries_first_match_loops(grids, depths, blocks, scope_size):
    plan = Plan("queries_first", BLOCKS[blocks], BLOCKS[blocks])
    make_problem(grids, depths, scope_size).check(plan)


@pytest.mark.parametrize("kinds", ["query offset", "offset query"])
def test_outputs_and_gradient_have_blocks_of_their_own(kinds):
    blocks = [Blocks(f"{kind}_rows", 2) for kind in kinds.split()]
    problem = make_problem("image", "grouped", 5)
    problem.check(Plan("queries_first", *blocks))


def train(plan, monkeypatch):
    """Trains a layer whose batch size is unknown, and returns its weights."""
    monkeypatch.setattr(cost_model, "choose_plan", lambda *_: plan)
    layer = LambdaLayer(6, num_heads=2, key_dim=3)
    model = keras.Sequential([keras.Input((7, 5, 4)), layer])
    random = np.random.default_rng(0)
    model.set_weights(
        [random.uniform(0.1, 1, w.shape) for w in model.get_weights()]
    )
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    images, labels = random.normal(size=(2, 3, 7, 5, 6))
    # Two batches, of which the last is smaller.
    model.fit(images[..., :4], labels, batch_size=2, shuffle=False, verbose=0)
    return model.get_weights()


def test_batch_size_may_be_unknown(monkeypatch):
    expected = train(Plan("lambdas_first"), monkeypatch)
    for kind in ("query_rows", "offset_rows"):
        blocks = Blocks(kind, 3)
        trained = train(Plan("queries_first", blocks, blocks), monkeypatch)
        for weight, other in zip(trained, expected, strict=True):
            np.testing.assert_allclose(
                weight, other, rtol=1e-4, atol=1e-5, err_msg=kind
            )


@pytest.mark.parametrize("scope_size", [1, 3, 5, None])
@all_problems
def test_lambdas_first_match_loops(grids, depths, scope_size):
    problem = make_problem(grids, depths, scope_size)
    problem.check(Plan("lambdas_first"))


def test_many_blocks_share_their_indices(monkeypatch):
    monkeypatch.setattr(query_rows, "_MOST_CONSTANTS", 0)
    blocks = BLOCKS["2_query_rows"]
    problem = make_problem("image", "grouped", 5)
    problem.check(Plan("queries_first", blocks, blocks))


@pytest.mark.parametrize("scope_size", [3, None])
def test_large_blocks_of_offset_rows_match_loops(scope_size, monkeypatch):
    monkeypatch.setattr(offset_rows, "_LARGE", 0)
    blocks = BLOCKS["2_offset_rows"]
    problem = make_problem("image", "grouped", scope_size)
    problem.check(Plan("queries_first", blocks, blocks))


@pytest.mark.parametrize("widest_native_kernel", [0, 99])
@pytest.mark.parametrize("scope_size", [1, 3, 5, None])
@pytest.mark.parametrize(
    ("grids", "depths"),
    [problem for problem in PROBLEMS if problem[0] in CONVOLVED],
)
def test_convolution_matches_loops(
    grids, depths, scope_size, widest_native_kernel, monkeypatch
):
    monkeypatch.setattr(
        convolution, "_WIDEST_NATIVE_KERNEL", widest_native_kernel
    )
    problem = make_problem(grids, depths, scope_size)
    problem.check(Plan("convolution"))


def test_a_wide_convolution_learns_from_examples_and_nothing_without():
    scope_size = 15
    assert scope_size > convolution._WIDEST_NATIVE_KERNEL
    layer = LambdaConv(
        6, scope_size, num_heads=2, contraction_order="convolution"
    )
    model = keras.Sequential([keras.Input((5, 3, 7)), layer])
    model.compile(keras.optimizers.SGD(1.0), loss="mse")
    random = np.random.default_rng(3)
    changes = []
    for size in (2, 0):
        batch = (
            random.normal(size=(size, 5, 3, 7)),
            random.normal(size=(size, 5, 3, 6)),
        )
        before = layer.get_weights()
        # From a generator, so that the graph does not know the size.
        batches = (one for one in [batch])
        model.fit(batches, steps_per_epoch=1, shuffle=False, verbose=0)
        changes.append(
            [
                np.abs(new - old).max()
                for new, old in zip(layer.get_weights(), before, strict=True)
            ]
        )
    assert min(changes[0]) > 1e-5
    # Statistics that are averaged with themselves are rounded.
    assert max(changes[1]) < 1e-6
