"""Position lambdas, made first, by one matrix product."""

from keras import ops

from lambda_keras.contraction.offsets import expand_pairs


def contract(queries, values, table, geometry):
    """Applies each query's own lambda, made first by a matrix product.

    n m k v multiply-adds per example and a (b, n, k, v) tensor: cheaper than
    the queries first where many of them share a lambda.

    Args:
        queries: `(b, n, j, k)`.
        values: `(b, m, u, v)`.
        table: `(scope_1, ..., u, k)`.
        geometry: a `Geometry`.

    Returns:
        `(b, n, j, v)`.
    """
    _, positions, _, key_dim = queries.shape
    _, context, intra_depth, value_dim = values.shape
    embeddings = expand_pairs(table, geometry)
    # One product for all examples: they share the embeddings, and with the
    # values in the rows it is as tall as the batch and their depth.
    embeddings = ops.transpose(embeddings, (1, 2, 0, 3))
    embeddings = ops.reshape(
        embeddings, (context * intra_depth, positions * key_dim)
    )
    values = ops.reshape(values, (-1, context * intra_depth, value_dim))
    values = ops.reshape(
        ops.swapaxes(values, 1, 2), (-1, context * intra_depth)
    )
    lambdas = ops.matmul(values, embeddings)
    lambdas = ops.reshape(lambdas, (-1, value_dim, positions, key_dim))
    return apply_lambdas(queries, lambdas)


def apply_lambdas(queries, lambdas):
    """Applies `(b, v, n, k)` to `(b, n, j, k)`, to `(b, n, j, v)`."""
    return ops.matmul(queries, ops.transpose(lambdas, (0, 2, 3, 1)))
