"""LambdaConv: position lambdas from a local scope, on a grid of any size."""

import keras
from keras import ops

from lambda_keras.base_lambda import BaseLambda
from lambda_keras.checks import check_positive_integers
from lambda_keras.functional import flatten_grid


@keras.saving.register_keras_serializable(package="lambda_keras")
class LambdaConv(BaseLambda):
    """Lets positions interact within a local scope, and content globally.

    A drop-in for a `Conv2D(filters, kernel_size)` of stride 1 and same
    padding. It differs from `LambdaLayer` in that the position lambda of a
    query sums over a scope around it, so that the layer is equivariant to
    translation (away from the border), its weights do not depend on the size
    of the grid, and the cost grows linearly with the number of positions. The
    content lambda still sums over all positions.

    In mixed precision the lambdas are computed in float32.

    Args:
        filters: int. Number of output channels, the paper's `d`. Must be
            divisible by `num_heads`.
        scope_size: int. Width of the scope on each axis of the grid, the
            paper's `r`. Must be odd. Defaults to `23`.
        num_heads: int. Number of queries per position, whose outputs are
            concatenated, the paper's `h`. Defaults to `4`.
        key_dim: int. Size of each query and key, the paper's `k`. Defaults to
            `16`.
        intra_depth: int. Number of keys and values per position that are
            summed into one lambda, the paper's `u`. Defaults to `1`.
        num_key_value_heads: int. Number of lambdas per position, each with
            its own keys, values and embeddings, as in Keras's
            `GroupedQueryAttention`. `1` is the paper's multi-query lambda,
            `num_heads` its multi-head lambda. Defaults to `1`.
        use_content: bool. Whether there is a content lambda. Defaults to
            `True`.
        local_content: bool. Whether the content lambda of a query sums over
            the scope only, as its position lambda does. Defaults to `False`.
        use_position: bool. Whether there are position lambdas. Defaults to
            `True`.
        key_normalization: what normalizes the keys over the context:
            `"softmax"`, `"l2"` (to a norm of 1) or `None`. Defaults to
            `"softmax"`.
        normalization: what normalizes queries and values after their
            projections. `"batch"` for
            `BatchNormalization(momentum=0.9, epsilon=1e-5)`, `None` for
            nothing, or an unbuilt layer of which both get a copy. Defaults to
            `"batch"`.
        context_scale: size of the context's grid over that of the inputs, a
            whole number or one over a whole number; it is of use with a
            separate context and position lambdas. Two positions have the
            offset 0 if their indices times the steps of their grids are
            equal. Defaults to `1`.
        position_embeddings: `PositionEmbeddings` to share with other layers.
            Defaults to embeddings of the layer's own.
        contraction_order: in which order position lambdas are contracted:
            `"queries_first"`, `"lambdas_first"` or `"convolution"`. It changes
            the speed and the memory, not the outputs. Defaults to `None`, the
            cheapest by the sizes at hand.
        use_bias: bool. Whether a learned vector of the size of a key is added
            to each column of every position lambda, as the bias of the
            convolution that makes them. The paper has none; some trained
            networks do. Masks do not touch it. Defaults to `False`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        The same as those of `LambdaLayer`.

    Attributes:
        value_dim: int. `filters / num_heads`, the paper's `v`.
        position_embeddings: the layer's `PositionEmbeddings`, the paper's
            `E`, whose `table` has the shape `(scope_size, scope_size,
            num_key_value_heads, intra_depth, key_dim)` for images. Its middle
            is the offset 0.
        bias: weight, `(num_key_value_heads, key_dim)`, if `use_bias`.

    Input shape:
        `(batch_size, length, channels)`, `(batch_size, height, width,
        channels)` or `(batch_size, depth, height, width, channels)`, of which
        only the channels must be known.

    Output shape:
        The input shape with `filters` channels.

    Raises:
        ValueError: If an argument has none of the values above, if
            `scope_size` is even, if `filters` is not divisible by
            `num_heads`, or if there is a bias but no position lambda.

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
        *,
        num_key_value_heads=1,
        use_content=True,
        local_content=False,
        use_position=True,
        key_normalization="softmax",
        normalization="batch",
        context_scale=1,
        position_embeddings=None,
        contraction_order=None,
        use_bias=False,
        **kwargs,
    ):
        super().__init__(
            filters,
            num_heads,
            key_dim,
            intra_depth,
            num_key_value_heads=num_key_value_heads,
            use_content=use_content,
            use_position=use_position,
            key_normalization=key_normalization,
            normalization=normalization,
            context_scale=context_scale,
            position_embeddings=position_embeddings,
            contraction_order=contraction_order,
            **kwargs,
        )
        check_positive_integers(scope_size=scope_size)
        if scope_size % 2 == 0:
            raise ValueError(
                "`scope_size` must be odd, because the scope is centered on "
                f"the query. Received: scope_size={scope_size}"
            )
        if use_bias and not use_position:
            raise ValueError(
                "`use_bias` needs `use_position=True`, because the bias is "
                "added to the position lambdas. Received: use_position=False"
            )
        self.scope_size = scope_size
        self.local_content = local_content
        self.use_bias = use_bias

    def build(self, inputs_shape, context_shape=None):
        if self.local_content and len(context_shape or inputs_shape) != len(
            inputs_shape
        ):
            raise ValueError(
                "`local_content` needs a context with as many axes as the "
                "inputs, because a query sees what is near on each of them. "
                f"Received: inputs of shape {tuple(inputs_shape)} and a "
                f"context of shape {tuple(context_shape)}"
            )
        super().build(inputs_shape, context_shape)
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.num_key_value_heads, self.key_dim),
                initializer="zeros",
                # Lambdas are summed in float32 also under mixed precision.
                autocast=False,
            )

    def count_offsets(self, query_grid, context_grid):
        return [self.scope_size] * len(query_grid)

    def count_seen(self, context_grid):
        return self.scope_size ** len(context_grid)

    def content_reach(self):
        return self.scope_size // 2 if self.local_content else None

    def find_centers(self, query_grid):
        return [self.scope_size // 2] * len(query_grid)

    def check_grids(self, query_grid, context_grid, in_pairs=False):
        unknown = None in (*query_grid, *context_grid)
        if unknown and (in_pairs or self.context_scale != 1):
            raise ValueError(
                "`LambdaConv` on a grid of unknown size takes neither a mask "
                "of pairs nor a context of another size, because its "
                "embeddings then cannot be laid out in pairs of positions. "
                f"Received: grids {tuple(query_grid)} and {tuple(context_grid)}"
            )

    def add_bias(self, outputs, queries):
        if not self.use_bias:
            return outputs
        queries = flatten_grid(queries)
        bias = ops.cast(self.bias, queries.dtype)
        biases = ops.einsum("bngjk,gk->bngj", queries, bias)
        return outputs + biases[..., None]

    def get_config(self):
        return {
            **super().get_config(),
            "scope_size": self.scope_size,
            "local_content": self.local_content,
            "use_bias": self.use_bias,
        }
