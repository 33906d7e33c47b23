"""LinearAttention: attention without a score for each pair."""

import keras
from keras import ops

from lambda_keras.attention.base import BaseAttention
from lambda_keras.attention.base import normalize_scores
from lambda_keras.attention.base import split_heads
from lambda_keras.attention.base import widen


@keras.saving.register_keras_serializable(package="lambda_keras")
class LinearAttention(BaseAttention):
    """Sums the context into one matrix per head, which every query reads.

    The keys are normalized by a softmax over the positions, the queries by one
    over their own depth; then `y = softmax(q) (softmax(K)^T V)`. Time and
    memory grow with the number of positions only, and positions themselves do
    not count: with other normalizations, this is a lambda layer without
    position lambdas.

    Shen et al. add the projected outputs to the features of a few places of a
    network. Where Table 3 of Bello, 2021, has them (77.3 %) is not said, nor
    with how many parameters; this is the attention alone.

    Args:
        filters: int. Number of output channels.
        num_heads: int. Number of heads; divides `filters`. Defaults to `8`.
        key_dim: int. Size of the queries and keys of a head. Defaults to
            `filters // num_heads`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Input shape:
        A sequence, image or volume of any size, such as the 4D tensor
        `(batch_size, height, width, channels)`.

    Output shape:
        The same with `filters` channels.

    Raises:
        ValueError: If `filters` is not divisible by `num_heads`.

    Example:

    >>> x = np.random.rand(2, 14, 14, 64)
    >>> y = lambda_keras.attention.LinearAttention(128)(x)
    >>> print(y.shape)
    (2, 14, 14, 128)

    Reference:
        - [Shen et al., 2018](https://arxiv.org/abs/1812.01243)
    """

    def call(self, inputs):
        queries, keys, values = (
            widen(split_heads(tensor, self.num_heads))
            for tensor in self.project(inputs)
        )
        queries = normalize_scores(queries, axis=-1)
        keys = normalize_scores(keys, axis=1)
        context = ops.einsum("bmhk,bmhv->bhkv", keys, values)
        outputs = ops.einsum("bnhk,bhkv->bnhv", queries, context)
        outputs = ops.cast(outputs, self.compute_dtype)
        grid = ops.shape(inputs)[1:-1]
        return ops.reshape(outputs, (-1, *grid, self.filters))

    def count_query(self, grid):
        # Its key meets its value, and the query meets their sum.
        return 2 * self.key_dim * self.value_dim
