"""Every order of contraction equals loops over the definition."""

import math

import numpy as np
import pytest

from lambda_keras import contraction
from lambda_keras.contraction import contract_position_lambdas
from lambda_keras.cost_model import Plan
from lambda_keras.offsets import Strides
from tests import gradients

BATCH, KEY_DIM, VALUE_DIM = 2, 3, 5

# Grids of queries and context, and the steps that bring them together.
GRIDS = {
    "sequence": ((19,), (19,), Strides()),
    "image": ((7, 5), (7, 5), Strides()),
    "volume": ((3, 5, 2), (3, 5, 2), Strides()),
    "coarse_context": ((6, 4), (3, 2), Strides(1, 2)),
    "fine_context": ((3, 2), (9, 6), Strides(3, 1)),
    "coarse_sequence": ((15,), (5,), Strides(1, 3)),
}
DEPTHS = {
    "multi_query": dict(groups=1, shared=2, intra_depth=1),
    "grouped": dict(groups=3, shared=2, intra_depth=2),
}
PLANS = {
    "queries_first_by_1": Plan("queries_first", 1),
    "queries_first_by_2": Plan("queries_first", 2),
    "queries_first_by_4": Plan("queries_first", 4),
    "lambdas_first": Plan("lambdas_first"),
}


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

    def loop(self):
        """Returns the outputs and the gradients of the three tensors."""
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
        def contract(queries, values, table):
            return contract_position_lambdas(
                queries, values, table, self.centers, self.strides, plan
            )

        results = gradients.compute(contract, self.tensors(), self.upstream)
        names = ("outputs", "queries", "values", "table")
        for name, result, expected in zip(
            names, results, self.loop(), strict=True
        ):
            scale = np.abs(expected).max()
            np.testing.assert_allclose(
                result, expected, rtol=0, atol=1e-5 * scale, err_msg=name
            )


all_depths = pytest.mark.parametrize("depths", DEPTHS.values(), ids=DEPTHS)


@pytest.mark.parametrize("scope_size", [1, 3, 5, None])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
@all_depths
def test_order_matches_loops(grids, depths, plan, scope_size):
    if plan.block_rows <= grids[0][0]:
        Problem(grids, scope_size, **depths).check(plan)


def test_many_blocks_share_their_indices(monkeypatch):
    monkeypatch.setattr(contraction, "_MOST_CONSTANTS", 0)
    problem = Problem(GRIDS["image"], 5, **DEPTHS["grouped"])
    problem.check(PLANS["queries_first_by_2"])


@pytest.mark.parametrize("widest_native_kernel", [0, 99])
@pytest.mark.parametrize("scope_size", [1, 3, 5, None])
@pytest.mark.parametrize("grids", ["sequence", "image", "volume"])
@all_depths
def test_convolution_matches_loops(
    grids, depths, scope_size, widest_native_kernel, monkeypatch
):
    monkeypatch.setattr(
        contraction, "_WIDEST_NATIVE_KERNEL", widest_native_kernel
    )
    problem = Problem(GRIDS[grids], scope_size, **depths)
    problem.check(Plan("convolution"))
