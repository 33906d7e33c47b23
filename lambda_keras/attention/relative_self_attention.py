"""RelativeSelfAttention: softmax attention over the whole grid."""

import math

import keras
import numpy as np
from keras import ops

from lambda_keras.attention.base import BaseAttention
from lambda_keras.attention.base import attend
from lambda_keras.attention.base import compute_axis_scores
from lambda_keras.attention.base import split_heads
from lambda_keras.functional import find_sizes


@keras.saving.register_keras_serializable(package="lambda_keras")
class RelativeSelfAttention(BaseAttention):
    """Lets every position attend to all others, by content and by offset.

    The score of a pair of positions is `q (k + r_height + r_width) /
    sqrt(key_dim)`, where the learned embeddings `r` depend on the offset along
    one axis each and are shared by the heads. Time and memory grow with the
    square of the number of positions: this is the global self-attention of
    Table 4 of Bello, 2021, which did not fit its machines.

    The source projects the outputs once more (`AttentionAugmentedConv2D`
    does); what stood in Table 4's network is not said. The embeddings of a
    layer belong to the size of its grid.

    Args:
        filters: int. Number of output channels.
        num_heads: int. Number of heads; divides `filters`. Defaults to `8`,
            with which the memory of Table 4 can be reproduced.
        key_dim: int. Size of the queries and keys of a head. Defaults to
            `filters // num_heads`, the size of its values.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Input shape:
        A sequence, image or volume of known size, such as the 4D tensor
        `(batch_size, height, width, channels)`.

    Output shape:
        The same with `filters` channels.

    Raises:
        ValueError: If `filters` is not divisible by `num_heads`, or if the
            size of the grid is unknown.

    Example:

    >>> x = np.random.rand(2, 14, 14, 64)
    >>> y = lambda_keras.attention.RelativeSelfAttention(128)(x)
    >>> print(y.shape)
    (2, 14, 14, 128)

    Reference:
        - [Bello et al., 2019](https://arxiv.org/abs/1904.09925), section 3.2
        - [Shaw et al., 2018](https://arxiv.org/abs/1803.02155)
    """

    def build(self, inputs_shape):
        _, *grid, channels = inputs_shape
        if not 1 <= len(grid) <= 3 or None in grid:
            raise ValueError(
                "Global self-attention takes sequences, images or volumes of "
                "known size, because it learns an embedding for each offset. "
                f"Received: inputs of shape {tuple(inputs_shape)}"
            )
        super().build(inputs_shape)
        self.input_spec = keras.layers.InputSpec(shape=(None, *grid, channels))
        self.tables = [
            self.add_weight(
                name=f"table_{axis}",
                shape=(2 * size - 1, self.key_dim),
                initializer=keras.initializers.RandomNormal(
                    stddev=self.key_dim**-0.5
                ),
            )
            for axis, size in enumerate(grid)
        ]

    def call(self, inputs):
        grid = find_sizes(inputs.shape[1:-1])
        queries, keys, values = (
            split_heads(tensor, self.num_heads)
            for tensor in self.project(inputs)
        )
        queries = queries * self.key_dim**-0.5
        axis_scores = [
            compute_axis_scores(queries, table, offsets)
            for table, offsets in zip(
                self.tables, _find_offsets(grid), strict=True
            )
        ]
        outputs = attend(queries, keys, values, axis_scores)
        return ops.reshape(outputs, (-1, *grid, self.filters))

    def count_query(self, grid):
        pairs = math.prod(grid) * (self.key_dim + self.value_dim)
        return pairs + sum(grid) * self.key_dim


def _find_offsets(grid):
    """Returns for each axis the table's rows, NumPy ints `(n, size)`.

    Row `size - 1` of a table is the offset 0.
    """
    coordinates = np.indices(grid).reshape(len(grid), -1)  # (axes, n)
    return [
        np.arange(size) - here[:, None] + size - 1
        for size, here in zip(grid, coordinates, strict=True)
    ]
