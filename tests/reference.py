"""The lambda layer as loops over positions, straight from its definition.

Slow on purpose: nothing here is vectorized over positions, so that nothing
can be vectorized wrongly. Bello, 2021, section 3 and appendix B.
"""

import itertools

import numpy as np
from keras import ops


def project(inputs, kernel):
    """`inputs @ kernel`, position by position."""
    outputs = np.zeros((*inputs.shape[:-1], kernel.shape[-1]))
    for position in np.ndindex(*inputs.shape[:-1]):
        outputs[position] = inputs[position] @ kernel
    return outputs


def normalize(tensor, gamma, beta, mean, variance, epsilon):
    """Batch normalization with given statistics, a channel at a time."""
    outputs = np.zeros(tensor.shape)
    for channel in range(tensor.shape[-1]):
        centered = tensor[..., channel] - mean[channel]
        scale = gamma[channel] / np.sqrt(variance[channel] + epsilon)
        outputs[..., channel] = centered * scale + beta[channel]
    return outputs


def softmax_over_context(keys):
    """Softmax of `(context, ...)` over its first axis, column by column."""
    outputs = np.zeros(keys.shape)
    for column in np.ndindex(*keys.shape[1:]):
        logits = keys[(slice(None), *column)]
        exponentials = np.exp(logits - logits.max())
        outputs[(slice(None), *column)] = exponentials / exponentials.sum()
    return outputs


def embedding_of(table, query, context):
    """The relative embedding between two positions; zero out of scope."""
    offset = [
        m - n + size // 2
        for n, m, size in zip(query, context, table.shape, strict=False)
    ]
    inside = all(
        0 <= index < size
        for index, size in zip(offset, table.shape, strict=False)
    )
    return table[tuple(offset)] if inside else np.zeros(table.shape[-2:])


def compute_outputs(queries, keys, values, table):
    """Applies lambdas to queries.

    Args:
        queries: `(batch, *grid, h, k)`.
        keys: `(batch, *grid, u, k)`, before the softmax.
        values: `(batch, *grid, u, v)`.
        table: `(*offsets, u, k)`, offset 0 in the middle.

    Returns:
        `(batch, *grid, h * v)`.
    """
    batch_size, *grid, num_heads, key_dim = queries.shape
    intra_depth, value_dim = values.shape[-2:]
    positions = list(itertools.product(*map(range, grid)))
    outputs = np.zeros((batch_size, *grid, num_heads * value_dim))
    for example in range(batch_size):
        softmax = softmax_over_context(
            np.stack([keys[(example, *m)] for m in positions])
        )
        for n in positions:
            query_lambda = np.zeros((key_dim, value_dim))
            for index, m in enumerate(positions):
                embedding = embedding_of(table, n, m)
                for depth in range(intra_depth):
                    query_lambda += np.outer(
                        softmax[index, depth] + embedding[depth],
                        values[(example, *m, depth)],
                    )
            heads = [
                query_lambda.T @ queries[(example, *n, head)]
                for head in range(num_heads)
            ]
            outputs[(example, *n)] = np.concatenate(heads)
    return outputs


def call_layer(layer, inputs):
    """What a built lambda layer must return for `inputs` in inference."""
    weights = {
        weight.path.split("/", 1)[-1]: ops.convert_to_numpy(weight)
        for weight in layer.weights
    }
    inputs = np.asarray(inputs, "float64")

    def normalized(name):
        tensor = project(inputs, weights[f"{name}/kernel"])
        if layer.normalization is None:
            return tensor
        return normalize(
            tensor,
            *(
                weights[f"{name}_normalization/{part}"]
                for part in ("gamma", "beta", "moving_mean", "moving_variance")
            ),
            epsilon=1e-5,
        )

    def split(tensor, groups):
        return tensor.reshape(*tensor.shape[:-1], groups, -1)

    return compute_outputs(
        split(normalized("query"), layer.num_heads),
        split(project(inputs, weights["key/kernel"]), layer.intra_depth),
        split(normalized("value"), layer.intra_depth),
        weights["position_embeddings"],
    )


def randomize_weights(layer, seed=0):
    """Sets every weight to random numbers that keep the outputs near 1."""
    generator = np.random.default_rng(seed)
    for weight in layer.weights:
        values = generator.normal(size=weight.shape)
        if "variance" in weight.name:
            values = generator.uniform(0.5, 2.0, size=weight.shape)
        elif "kernel" in weight.name:
            values /= np.sqrt(weight.shape[0])
        elif "embeddings" in weight.name:
            values /= np.sqrt(np.prod(weight.shape))
        weight.assign(values)
