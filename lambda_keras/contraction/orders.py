"""The one door to position lambdas, in whichever order is the cheapest.

Nothing stands between the two sums of

    y[b, n, j, v] = sum_k q[b, n, j, k] sum_mu E[n, m, u, k] V[b, m, u, v],

so that they may be taken in either order, and the embeddings `E`, of which
each stands for an offset, made in several ways. All orders are equal to each
other, and so are their gradients; `cost_model.py` says which is the cheapest.
The axis key of `functional.py` holds here.

Reference:
    - [Bello, 2021](https://arxiv.org/abs/2102.08602), section 3
"""

from keras import ops

from lambda_keras.contraction import convolution
from lambda_keras.contraction import cost_model
from lambda_keras.contraction import lambdas_first
from lambda_keras.contraction import queries_first
from lambda_keras.functional import flatten_grid

ORDERS = ("queries_first", "lambdas_first", "convolution")


def contract_position_lambdas(queries, values, table, geometry, order=None):
    """Applies each query's own lambda.

    Args:
        queries: `(b, ..., g, j, k)`.
        values: `(b, ..., g, u, v)`.
        table: `(scope_1, ..., g, u, k)`, one embedding per offset. What lies
            beyond does not interact.
        geometry: a `Geometry`, with `None` for sizes that are not known.
        order: one of `ORDERS`, or `None` for the cheapest one.

    Returns:
        `(b, n, g, j, v)`.

    Raises:
        ValueError: If the geometry does not allow the order.
    """
    sizes = cost_model.measure(queries, values, table, geometry)
    plan = cost_model.choose_plan(sizes, order)
    return contract_by_plan(queries, values, table, geometry, plan)


def contract_by_plan(queries, values, table, geometry, plan):
    """Applies each query's own lambda as a plan says.

    Args:
        plan: a `Plan`; the others are those of `contract_position_lambdas`.

    Returns:
        `(b, n, g, j, v)`.
    """
    # Where sizes are not known, a convolution takes them as tensors.
    grid = ops.shape(queries)[1:-3]
    queries, values = flatten_grid(queries), flatten_grid(values)
    outputs = []
    # Every group has embeddings of its own, so that one contraction for all of
    # them would need the group as a batch axis, in front of each transpose.
    for group in range(queries.shape[2]):
        tensors = (
            queries[:, :, group],
            values[:, :, group],
            table[..., group, :, :],
        )
        if plan.order == "convolution":
            output = convolution.contract(*tensors, grid)
        elif plan.order == "lambdas_first":
            output = lambdas_first.contract(*tensors, geometry)
        else:
            output = queries_first.contract(*tensors, geometry, plan)
        outputs.append(output)
    return ops.stack(outputs, axis=2)
