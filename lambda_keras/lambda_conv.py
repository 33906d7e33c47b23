"""LambdaConv: position lambdas from a local scope, on a grid of any size."""

import math

import keras
from keras import ops

from lambda_keras import functional
from lambda_keras.base_lambda import BaseLambda
from lambda_keras.base_lambda import check_positive_integers
from lambda_keras.base_lambda import flatten_grid

# Above this many numbers in the expanded embeddings (64 MiB in float32), the
# convolution is used.
_MAX_EXPANDED_SIZE = 2**24


@keras.saving.register_keras_serializable(package="lambda_keras")
class LambdaConv(BaseLambda):
    """Lets positions interact within a local scope, and content globally.

    A drop-in for a `Conv2D(filters, kernel_size)` of stride 1 and same
    padding. It differs from `LambdaLayer` in that the position lambda of a
    query sums over a scope around it, so that the layer is equivariant to
    translation (away from the border), its weights do not depend on the size
    of the grid, and the cost grows linearly with the number of positions. The
    content lambda still sums over all positions.

    How the position lambdas are computed (by a convolution as in the paper, or
    the queries first) is chosen by the size of the grid and changes nothing
    but the speed. In mixed precision the lambdas are computed in float32.

    Args:
        filters: int. Number of output channels, the paper's `d`. Must be
            divisible by `num_heads`.
        scope_size: int. Width of the scope on each axis of the grid, the
            paper's `r`. Must be odd. Defaults to `23`.
        num_heads: int. Number of queries a position that share one lambda and
            whose outputs are concatenated, the paper's `h`. Defaults to `4`.
        key_dim: int. Size of each query and key, the paper's `k`. Defaults to
            `16`.
        intra_depth: int. Number of keys and values a position that are summed
            into one lambda, the paper's `u`. Defaults to `1`.
        normalization: what normalizes queries and values after their
            projections, as in `LambdaLayer`. Defaults to `"batch"`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Attributes:
        value_dim: int. `filters / num_heads`, the paper's `v`.
        position_embeddings: weight of the relative embeddings, the paper's
            `E`, `(scope_size, scope_size, intra_depth, key_dim)` for images.
            Its middle is the offset 0.

    Input shape:
        `(batch_size, length, channels)`, `(batch_size, height, width,
        channels)` or `(batch_size, depth, height, width, channels)`, of which
        only the channels must be known.

    Output shape:
        The input shape with `filters` channels.

    Raises:
        ValueError: If a size is not a positive integer, if `scope_size` is
            even, or if `filters` is not divisible by `num_heads`.

    Example:

    >>> x = np.random.rand(2, 14, 14, 64)
    >>> y = lambda_keras.LambdaConv(128, scope_size=7)(x)
    >>> print(y.shape)
    (2, 14, 14, 128)

    Reference:
        - [Bello, 2021](https://arxiv.org/abs/2102.08602), sections 3.1 and B.1
    """

    def __init__(
        self,
        filters,
        scope_size=23,
        num_heads=4,
        key_dim=16,
        intra_depth=1,
        normalization="batch",
        **kwargs,
    ):
        super().__init__(
            filters,
            num_heads=num_heads,
            key_dim=key_dim,
            intra_depth=intra_depth,
            normalization=normalization,
            **kwargs,
        )
        check_positive_integers(scope_size=scope_size)
        if scope_size % 2 == 0:
            raise ValueError(
                "`scope_size` must be odd, because the scope is centered on "
                f"the query. Received: scope_size={scope_size}"
            )
        self.scope_size = scope_size

    def position_scopes(self, grid):
        return [self.scope_size] * len(grid)

    def apply_positions(self, queries, values):
        grid = queries.shape[1:-2]
        table = ops.convert_to_tensor(self.position_embeddings)
        if not self._expands(grid):
            return flatten_grid(
                functional.convolve_position_lambdas(queries, values, table)
            )
        embeddings = functional.expand_offsets(
            functional.fit_offsets(table, grid), grid
        )
        return functional.apply_position_lambdas(
            flatten_grid(queries), flatten_grid(values), embeddings
        )

    def _expands(self, grid):
        if None in grid:
            return False
        size = math.prod(grid) ** 2 * self.intra_depth * self.key_dim
        return size <= _MAX_EXPANDED_SIZE

    def get_config(self):
        return {**super().get_config(), "scope_size": self.scope_size}
