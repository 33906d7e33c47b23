"""LambdaLayer: every query sees the position of the whole context."""

import keras

from lambda_keras import functional
from lambda_keras.base_lambda import BaseLambda
from lambda_keras.base_lambda import flatten_grid


@keras.saving.register_keras_serializable(package="lambda_keras")
class LambdaLayer(BaseLambda):
    """Lets every position interact with all others through lambdas.

    The context (here the inputs themselves) becomes small linear maps, the
    lambdas, which are applied to the queries: one *content* lambda, the softmax
    of the keys over the positions times the values, that all queries share,
    and a *position* lambda for each query, learned embeddings of the relative
    positions times the values. There are no attention maps, no biases and
    nothing non-linear between a query and its lambda.

    The layer learns an embedding for each offset between two positions of the
    grid, so the grid has a fixed size. Use `LambdaConv` for unknown sizes, or
    where positions need to interact only within a local scope.

    In mixed precision the lambdas are computed in float32.

    Args:
        filters: int. Number of output channels, the paper's `d`. Must be
            divisible by `num_heads`.
        num_heads: int. Number of queries a position that share one lambda and
            whose outputs are concatenated, the paper's `h`. Defaults to `4`.
        key_dim: int. Size of each query and key, the paper's `k`. Defaults to
            `16`.
        intra_depth: int. Number of keys and values a position that are summed
            into one lambda, the paper's `u`. Defaults to `1`.
        normalization: what normalizes queries and values after their
            projections. `"batch"` for
            `BatchNormalization(momentum=0.9, epsilon=1e-5)`, `None` for
            nothing, or an unbuilt layer of which both get a copy. Defaults to
            `"batch"`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Attributes:
        value_dim: int. `filters / num_heads`, the paper's `v`.
        position_embeddings: weight of the relative embeddings, the paper's
            `E`, `(2 * height - 1, 2 * width - 1, intra_depth, key_dim)` for
            images. Its middle is the offset 0.

    Input shape:
        `(batch_size, length, channels)`, `(batch_size, height, width,
        channels)` or `(batch_size, depth, height, width, channels)`, of which
        only the batch size may be unknown.

    Output shape:
        The input shape with `filters` channels.

    Raises:
        ValueError: If a size is not a positive integer, if `filters` is not
            divisible by `num_heads`, or if the layer is built on a grid of
            unknown size.

    Example:

    >>> x = np.random.rand(2, 14, 14, 64)
    >>> y = lambda_keras.LambdaLayer(128)(x)
    >>> print(y.shape)
    (2, 14, 14, 128)

    Reference:
        - [Bello, 2021](https://arxiv.org/abs/2102.08602), section 3
    """

    def position_scopes(self, grid):
        if None in grid:
            raise ValueError(
                "`LambdaLayer` needs a grid of known size, because it learns "
                "one embedding for each offset between two positions of it. "
                "Give the input a fixed size, or use `LambdaConv`. "
                f"Received: grid={tuple(grid)}"
            )
        return [2 * size - 1 for size in grid]

    def apply_positions(self, queries, values):
        embeddings = functional.expand_offsets(
            self.position_embeddings, queries.shape[1:-2]
        )
        return functional.apply_position_lambdas(
            flatten_grid(queries), flatten_grid(values), embeddings
        )
