"""The attention layers as loops over positions, from their definitions.

Slow on purpose, as `tests.reference`: each query is handled by itself.
"""

import itertools

import numpy as np
from keras import ops

from tests.support.reference import project


def softmax(scores):
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def list_positions(grid):
    return list(itertools.product(*map(range, grid)))


def project_heads(projection, inputs, num_heads):
    """`(batch, *grid, heads, depth)`."""
    outputs = project(inputs, ops.convert_to_numpy(projection.kernel))
    return outputs.reshape(*outputs.shape[:-1], num_heads, -1)


def project_all(layer, inputs):
    return [
        project_heads(projection, inputs, layer.num_heads)
        for projection in (layer.query, layer.key, layer.value)
    ]


def attend(layer, inputs, embedding_of):
    """Softmax attention of every position to those that have an embedding.

    Args:
        layer: the layer, for its projections.
        inputs: `(batch, *grid, channels)`.
        embedding_of: function of the indices of a query and a context
            position, `None` where the query does not see it.

    Returns:
        `(batch, *grid, filters)`.
    """
    queries, keys, values = project_all(layer, inputs)
    positions = list_positions(inputs.shape[1:-1])
    outputs = np.zeros((*inputs.shape[:-1], layer.num_heads, layer.value_dim))
    for example in range(len(inputs)):
        for n, head in itertools.product(positions, range(layer.num_heads)):
            query = queries[(example, *n, head)]
            seen = [m for m in positions if embedding_of(n, m) is not None]
            scores = [
                query @ (keys[(example, *m, head)] + embedding_of(n, m))
                for m in seen
            ]
            weights = softmax(np.array(scores) / np.sqrt(layer.key_dim))
            for weight, m in zip(weights, seen, strict=True):
                outputs[(example, *n, head)] += (
                    weight * values[(example, *m, head)]
                )
    return outputs.reshape(*inputs.shape[:-1], layer.filters)


def call_relative(layer, inputs):
    """What a `RelativeSelfAttention` must return."""
    tables = [ops.convert_to_numpy(table) for table in layer.tables]

    def embedding_of(query, context):
        return sum(
            table[m - n + len(table) // 2]
            for table, n, m in zip(tables, query, context, strict=True)
        )

    return attend(layer, inputs, embedding_of)


def call_axial(layer, inputs):
    """What an `AxialSelfAttention` must return."""
    _, height, width, _ = inputs.shape
    between = np.stack(
        [
            call_relative(layer.height_attention, inputs[:, :, column])
            for column in range(width)
        ],
        axis=2,
    )
    return np.stack(
        [
            call_relative(layer.width_attention, between[:, row])
            for row in range(height)
        ],
        axis=1,
    )


def call_local(layer, inputs):
    """What a `LocalSelfAttention` must return."""
    height_table = ops.convert_to_numpy(layer.height_table)
    width_table = ops.convert_to_numpy(layer.width_table)
    reach = layer.window_size // 2

    def embedding_of(query, context):
        down, right = (m - n for n, m in zip(query, context, strict=True))
        if max(abs(down), abs(right)) > reach:
            return None
        return np.concatenate(
            [height_table[down + reach], width_table[right + reach]]
        )

    return attend(layer, inputs, embedding_of)


def call_linear(layer, inputs):
    """What a `LinearAttention` must return, by a weight for each pair."""
    queries, keys, values = project_all(layer, inputs)
    positions = list_positions(inputs.shape[1:-1])
    outputs = np.zeros((*inputs.shape[:-1], layer.num_heads, layer.value_dim))
    for example in range(len(inputs)):
        for head in range(layer.num_heads):
            columns = np.stack([keys[(example, *m, head)] for m in positions])
            for depth in range(layer.key_dim):
                columns[:, depth] = softmax(columns[:, depth])
            for n in positions:
                query = softmax(queries[(example, *n, head)])
                for column, m in zip(columns, positions, strict=True):
                    outputs[(example, *n, head)] += (
                        query @ column * values[(example, *m, head)]
                    )
    return outputs.reshape(*inputs.shape[:-1], layer.filters)


def call_convolution(kernel, inputs):
    """A 2D convolution with zeros around the image."""
    reach = kernel.shape[0] // 2
    _, height, width, _ = inputs.shape
    outputs = np.zeros((*inputs.shape[:-1], kernel.shape[-1]))
    for y, x in list_positions((height, width)):
        for down, right in list_positions(kernel.shape[:2]):
            row, column = y + down - reach, x + right - reach
            if 0 <= row < height and 0 <= column < width:
                outputs[:, y, x] += inputs[:, row, column] @ kernel[down, right]
    return outputs


def call_augmented(layer, inputs):
    """What an `AttentionAugmentedConv2D` must return."""
    convolved = call_convolution(
        ops.convert_to_numpy(layer.convolution.kernel), inputs
    )
    attended = project(
        call_relative(layer.attention, inputs),
        ops.convert_to_numpy(layer.projection.kernel),
    )
    return np.concatenate([convolved, attended], axis=-1)
