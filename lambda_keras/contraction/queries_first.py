"""Position lambdas, the queries first, in blocks."""

from keras import ops

from lambda_keras.contraction import offset_rows
from lambda_keras.contraction import query_rows
from lambda_keras.contraction.offsets import fit_offsets

_BLOCKS = {"query_rows": query_rows, "offset_rows": offset_rows}


def contract(queries, values, table, geometry, plan):
    """Applies each query's own lambda, the queries first.

    n m j (k + v) multiply-adds per example, where m is what a query row has in
    reach, and no (b, n, k, v) tensor. The blocks are rows of queries or rows
    of offsets, which the outputs and the gradient may each have their own of.

    Args:
        queries: `(b, n, j, k)`.
        values: `(b, m, u, v)`.
        table: `(scope_1, ..., u, k)`.
        geometry: a `Geometry`.
        plan: a `Plan` of the order `"queries_first"`.

    Returns:
        `(b, n, j, v)`.
    """
    # The first axis is left as it is: each block cuts its own rows out of it.
    for axis in range(1, len(geometry.query_grid)):
        table = fit_offsets(table, axis, geometry)
    blocks, gradient_blocks = plan.blocks, plan.gradient_blocks

    # A framework's own gradient would keep the weights of all blocks.

    @ops.custom_gradient
    def contract_blocks(queries, values, table):
        tensors = queries, values, table
        outputs = _BLOCKS[blocks.kind].contract(*tensors, geometry, blocks.rows)

        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return _BLOCKS[gradient_blocks.kind].differentiate(
                *tensors, upstream, geometry, gradient_blocks.rows
            )

        return outputs, gradient

    return contract_blocks(queries, values, table)
