"""LambdaLayer: every query sees the position of the whole context."""

import keras

from lambda_keras.base_lambda import BaseLambda
from lambda_keras.contraction import offsets


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
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: tensor that the queries come from.
        context: tensor that keys and values come from. Defaults to the inputs.
        mask: bools. `(batch_size, *grid)` says which positions of the inputs
            are real, as Keras passes it on by itself; `(batch_size, *grid,
            *context_grid)` says for each query which positions of the context
            it sees, whose grid may have another rank. What is hidden has no
            part in either lambda, and a query that sees nothing returns zeros.
        inputs_mask: the first form of `mask`, beside the second.
        context_mask: bools, `(batch_size, *context_grid)`. Which positions of
            a separate context are real.
        use_causal_mask: bool. Whether a query sees only positions that do not
            come after its own in row-major order.
        training: bool. Whether batch normalization uses the batch.

    Attributes:
        value_dim: int. `filters / num_heads`, the paper's `v`.
        position_embeddings: the layer's `PositionEmbeddings`, the paper's
            `E`, whose `table` has the shape `(2 * height - 1, 2 * width - 1,
            num_key_value_heads, intra_depth, key_dim)` for images. Its middle
            is the offset 0.

    Input shape:
        `(batch_size, length, channels)`, `(batch_size, height, width,
        channels)` or `(batch_size, depth, height, width, channels)`, of which
        only the batch size may be unknown, unless `use_position` is `False`.

    Output shape:
        The input shape with `filters` channels.

    Raises:
        ValueError: If an argument has none of the values above, if `filters`
            is not divisible by `num_heads`, if the layer is built on a grid of
            unknown size, or on one that has not the stated relation to that
            of the context.

    Example:

    >>> x = np.random.rand(2, 14, 14, 64)
    >>> y = lambda_keras.LambdaLayer(128)(x)
    >>> print(y.shape)
    (2, 14, 14, 128)

    Reference:
        - [Bello, 2021](https://arxiv.org/abs/2102.08602), section 3
    """

    def count_offsets(self, query_grid, context_grid):
        if None in (*query_grid, *context_grid):
            raise ValueError(
                "`LambdaLayer` needs a grid of known size, because it learns "
                "one embedding for each offset between two positions of it. "
                "Give the input a fixed size, or use `LambdaConv`. "
                f"Received: grid={tuple(query_grid)}"
            )
        return [
            offsets.count_offsets(*sizes, self._strides)
            for sizes in zip(query_grid, context_grid, strict=True)
        ]

    def find_centers(self, query_grid):
        return [(size - 1) * self._strides.query for size in query_grid]

    def check_grids(self, query_grid, context_grid, in_pairs=False):
        needed = self.count_offsets(query_grid, context_grid)
        scopes = self.position_embeddings.table.shape[:-3]
        if list(scopes) != needed:
            raise ValueError(
                "`LambdaLayer` takes the grid that it was built on, because "
                "it has an embedding for each of its offsets. For another "
                "grid build another layer and give it the embeddings that "
                "`resize_position_embeddings` returns, or use `LambdaConv`. "
                f"Received: grid={tuple(query_grid)} for a table of "
                f"{tuple(scopes)} offsets"
            )
