"""The equations of the lambda layer on tensors, without weights.

Axis key, for the einsum strings and the shape comments of this package:

    b  batch                    g  lambdas per position (1: multi-query)
    n  query positions          j  queries that share one lambda
    m  context positions        k  key depth
    u  intra-depth              v  value depth

There are `h = g j` heads, and `g v j` output channels. Positions are flattened
in row-major order. A grid is a tuple of sizes, such as `(height, width)`, of
any rank. `contraction/` has the position lambdas that no mask of pairs hides.

Reference:
    - [Bello, 2021](https://arxiv.org/abs/2102.08602), sections 3 and B
"""

import math

from keras import ops

# Below any key, and still finite: differences of infinities are not numbers.
LOWEST = -1e30
# Below any sum of squares that a key can have.
_TINY = 1e-30


def find_sizes(shape):
    """Returns the sizes of a shape, with `None` for those not known.

    TensorFlow has `None` there itself. In PyTorch a size that `torch.export`
    leaves open is a symbol, which a comparison would bind to the example's, and
    `torch.jit.trace` makes tensors of all sizes, which hold the example's.
    """
    return tuple(
        int(size)
        if hasattr(size, "item")
        else size
        if isinstance(size, int)
        else None
        for size in shape
    )


def widen_dtype(dtype):
    """Returns the dtype in which lambdas of the dtype are computed.

    Half precision holds neither a softmax over many positions nor a sum over
    them.
    """
    return "float64" if dtype == "float64" else "float32"


def flatten_grid(tensor):
    """Reshapes `(b, ..., g, j, k)` to `(b, n, g, j, k)`."""
    *grid, groups, number, depth = tensor.shape[1:]
    if None in grid:
        batch_size = ops.shape(tensor)[0]
        return ops.reshape(tensor, (batch_size, -1, groups, number, depth))
    return ops.reshape(tensor, (-1, math.prod(grid), groups, number, depth))


def compute_content_lambda(keys, values, normalization, visible=None):
    """Sums the normalized keys times the values over the context.

    Args:
        keys: `(b, m, g, u, k)`.
        values: `(b, m, g, u, v)`.
        normalization: what the keys are brought to over the context:
            `"softmax"` (each column sums to 1), `"l2"` (each column has norm
            1) or `None`.
        visible: bools, `(b, m)`. The other positions have no part.

    Returns:
        One lambda per example and group, `(b, g, k, v)`. Zero where nothing
        is visible.
    """
    if visible is not None:
        visible = visible[:, :, None, None, None]
    keys, totals = _weigh_keys(keys, normalization, visible, axis=1)
    keys = ops.transpose(keys, (0, 2, 3, 1, 4))
    values = ops.transpose(values, (0, 2, 3, 1, 4))
    # A lambda is smaller than the keys, so it is what is scaled.
    lambdas = ops.matmul(ops.swapaxes(keys, 3, 4), values)  # (b, g, u, k, v)
    totals = ops.expand_dims(totals[:, 0], -1)
    lambdas = normalize_lambdas(lambdas, totals, normalization, visible)
    return ops.sum(lambdas, axis=2)


def apply_content_lambda(queries, content_lambda):
    """Applies one lambda per example to every query of that example.

    Args:
        queries: `(b, n, g, j, k)`.
        content_lambda: `(b, g, k, v)`.

    Returns:
        `(b, n, g, j, v)`.
    """
    _, positions, groups, shared, key_dim = ops.shape(queries)
    value_dim = content_lambda.shape[-1]
    queries = ops.transpose(queries, (0, 2, 1, 3, 4))
    queries = ops.reshape(queries, (-1, groups, positions * shared, key_dim))
    outputs = ops.matmul(queries, content_lambda)
    outputs = ops.reshape(outputs, (-1, groups, positions, shared, value_dim))
    return ops.transpose(outputs, (0, 2, 1, 3, 4))


def normalize_lambdas(lambdas, totals, normalization, visible=None):
    """Divides lambdas by what normalizes the keys that they are made of.

    Args:
        lambdas: `(..., v)`.
        totals: as in `invert_totals`, `(..., 1)`.
        normalization: as in `compute_content_lambda`.
        visible: what hides context positions, or `None` if nothing does.

    Returns:
        The shape of the lambdas.
    """
    if normalization == "softmax" and visible is None:
        # No total is below 1, to which the largest key comes, so that none
        # needs a guard. A quotient loses less in integers of 8 bits than a
        # reciprocal does, whose rounding the product would multiply.
        return lambdas / totals
    return lambdas * invert_totals(totals, normalization)


def invert_totals(totals, normalization):
    """Returns what normalizes keys, of the sum of their weights.

    Args:
        totals: sums of exponentials for `"softmax"`, of squares for `"l2"`.
        normalization: as in `compute_content_lambda`.

    Returns:
        The shape of the totals. Where there is nothing to normalize, finite.
    """
    if normalization == "softmax":
        return 1.0 / ops.where(totals > 0, totals, 1.0)
    if normalization == "l2":
        return ops.rsqrt(ops.maximum(totals, _TINY))
    return ops.ones_like(totals)


def compute_content_weights(queries, keys, visible, normalization):
    """Computes how much of each value each query takes for its content.

    Every query normalizes the keys over the positions that it sees. Time and
    memory grow with n m k: for masks that have no structure. One group at a
    time, because TensorFlow Lite slices no more than five axes.

    Args:
        queries: `(b, n, j, k)`, those of a group.
        keys: `(b, m, u, k)`, those of the group.
        visible: bools, `(b, n, m)`, where `b` and `n` may be 1.
        normalization: as in `compute_content_lambda`.

    Returns:
        `(b, n, j, m, u)`.
    """
    visible = ops.expand_dims(visible, (3, 4))
    keys = ops.expand_dims(keys, 1)
    keys, totals = _weigh_keys(keys, normalization, visible, axis=2)
    keys = keys * invert_totals(totals, normalization)
    if keys.shape[1] == 1:
        return ops.einsum("bnjk,bmuk->bnjmu", queries, keys[:, 0])
    return ops.einsum("bnjk,bnmuk->bnjmu", queries, keys)


def compute_position_weights(queries, embeddings, visible=None):
    """Computes how much of each value each query takes for its position.

    Args:
        queries: `(b, n, j, k)`, those of a group.
        embeddings: `(n, m, u, k)`, those of the group.
        visible: bools, `(b, n, m)`. The other weights are zero.

    Returns:
        `(b, n, j, m, u)`.
    """
    weights = ops.einsum("bnjk,nmuk->bnjmu", queries, embeddings)
    if visible is None:
        return weights
    return ops.where(ops.expand_dims(visible, (2, 4)), weights, 0.0)


def apply_weights(weights, values):
    """Sums the values with the weights of each query.

    Args:
        weights: `(b, n, j, m, u)`, those of a group.
        values: `(b, m, u, v)`, those of the group.

    Returns:
        `(b, n, j, v)`.
    """
    return ops.einsum("bnjmu,bmuv->bnjv", weights, values)


def apply_embeddings(queries, values, embeddings, visible=None):
    """Applies position lambdas made of an embedding of each pair.

    Time and memory grow with n m, one group after the other.

    Args:
        queries: `(b, n, g, j, k)`.
        values: `(b, m, g, u, v)`.
        embeddings: `(n, m, g, u, k)`.
        visible: bools, `(b, n, m)`. The other pairs do not interact.

    Returns:
        `(b, n, g, j, v)`.
    """

    def apply_group(queries, values, embeddings):
        weights = compute_position_weights(queries, embeddings, visible)
        return apply_weights(weights, values)

    return map_groups(apply_group, queries, values, embeddings)


def map_groups(function, *tensors):
    """Applies a function to each group by itself.

    Args:
        function: takes what is left of the tensors without their groups, and
            returns a tensor `(b, n, ...)`.
        *tensors: tensors with the groups on the third axis.

    Returns:
        `(b, n, g, ...)`.
    """
    groups = range(tensors[0].shape[2])
    return ops.stack(
        [
            function(*(tensor[:, :, group] for tensor in tensors))
            for group in groups
        ],
        axis=2,
    )


def find_peaks(keys, axis):
    """Returns the largest keys over an axis, which stays, without gradient."""
    if keys.shape[0] == 0:
        # Eager Keras refuses to search nothing for its maximum.
        return ops.sum(keys, axis=axis, keepdims=True)
    return ops.stop_gradient(ops.max(keys, axis=axis, keepdims=True))


def _weigh_keys(keys, normalization, visible, axis):
    """Returns the keys before the last division, and their totals."""
    if normalization == "softmax":
        # `ops.softmax` gives a row that sees nothing equal weights, and warns
        # of an axis of size 1, which a grid of one position has.
        if visible is not None:
            keys = ops.where(visible, keys, LOWEST)
        keys = ops.exp(keys - find_peaks(keys, axis))
    if visible is not None:
        keys = ops.where(visible, keys, 0.0)
    totals = keys if normalization == "softmax" else keys * keys
    return keys, ops.sum(totals, axis=axis, keepdims=True)
