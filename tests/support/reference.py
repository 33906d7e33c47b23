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


def normalize_keys(keys, normalization):
    """Normalizes `(positions, ...)` over its first axis, column by column."""
    outputs = np.zeros(keys.shape)
    for column in np.ndindex(*keys.shape[1:]):
        index = (slice(None), *column)
        if normalization == "softmax":
            exponentials = np.exp(keys[index] - keys[index].max())
            outputs[index] = exponentials / exponentials.sum()
        elif normalization == "l2":
            outputs[index] = keys[index] / np.sqrt((keys[index] ** 2).sum())
        else:
            outputs[index] = keys[index]
    return outputs


def find_strides(layer):
    """Steps of the grids of queries and context, in units of the finer."""
    if layer.context_scale < 1:
        return 1, round(1 / layer.context_scale)
    return layer.context_scale, 1


def embedding_of(layer, table, query, context, query_grid):
    """The relative embedding between two positions; zero out of scope."""
    if not layer.use_position:
        return np.zeros(table.shape[-3:])
    strides = find_strides(layer)
    index = []
    for axis, (n, m) in enumerate(zip(query, context, strict=True)):
        middle = (query_grid[axis] - 1) * strides[0]
        if hasattr(layer, "scope_size"):
            middle = layer.scope_size // 2
        index.append(m * strides[1] - n * strides[0] + middle)
    sizes = table.shape[: len(index)]
    if all(0 <= i < size for i, size in zip(index, sizes, strict=True)):
        return table[tuple(index)]
    return np.zeros(table.shape[len(index) :])


def is_near(layer, query, context):
    """Whether the content at a position lies within a local scope."""
    if not getattr(layer, "local_content", False):
        return True
    reach = layer.scope_size // 2
    strides = find_strides(layer)
    distances = [
        abs(n * strides[0] - m * strides[1])
        for n, m in zip(query, context, strict=True)
    ]
    return max(distances) <= reach


def compute_lambda(layer, keys, values, embeddings, near):
    """The lambda of one query and group, of what it sees.

    Args:
        layer: the layer, for its arguments.
        keys: `(positions, u, k)`, before normalization.
        values: `(positions, u, v)`.
        embeddings: `(positions, u, k)`.
        near: for each position, whether its content counts.

    Returns:
        `(k, v)`.
    """
    total = np.zeros((layer.key_dim, layer.value_dim))
    near = [position for position, is_in in enumerate(near) if is_in]
    if layer.use_content and near:
        weights = normalize_keys(keys[near], layer.key_normalization)
        for weight, position in zip(weights, near, strict=True):
            for depth in range(layer.intra_depth):
                total += np.outer(weight[depth], values[position, depth])
    if layer.use_position:
        for position in range(len(values)):
            for depth in range(layer.intra_depth):
                total += np.outer(
                    embeddings[position, depth], values[position, depth]
                )
    return total


def compute_outputs(layer, queries, keys, values, table, sees):
    """Applies to each query its lambda.

    Args:
        layer: the layer, for its arguments.
        queries: `(batch, *grid, g, j, k)`.
        keys: `(batch, *context_grid, g, u, k)`, before normalization.
        values: `(batch, *context_grid, g, u, v)`.
        table: `(*offsets, g, u, k)`.
        sees: function of an example and the indices of a query and a context
            position.

    Returns:
        `(batch, *grid, g * j * v)`.
    """
    batch_size, *query_grid = queries.shape[:-3]
    query_positions = list(itertools.product(*map(range, query_grid)))
    positions = list(itertools.product(*map(range, values.shape[1:-3])))
    outputs = np.zeros((batch_size, *query_grid, layer.filters))
    for example in range(batch_size):
        for n in query_positions:
            seen = [m for m in positions if sees(example, n, m)]
            if not seen:
                continue
            heads = []
            for group in range(layer.num_key_value_heads):
                query_lambda = compute_lambda(
                    layer,
                    np.stack([keys[(example, *m, group)] for m in seen]),
                    np.stack([values[(example, *m, group)] for m in seen]),
                    np.stack(
                        [
                            embedding_of(layer, table, n, m, query_grid)[group]
                            for m in seen
                        ]
                    ),
                    [is_near(layer, n, m) for m in seen],
                )
                if getattr(layer, "use_bias", False):
                    query_lambda += ops.convert_to_numpy(layer.bias)[
                        group, :, None
                    ]
                heads += [
                    query_lambda.T @ query
                    for query in queries[(example, *n, group)]
                ]
            outputs[(example, *n)] = np.concatenate(heads)
    return outputs


def call_layer(
    layer, inputs, context=None, padding=None, pairs=None, causal=False
):
    """What a built lambda layer must return in inference.

    Args:
        layer: the layer, with its weights.
        inputs: `(batch, *grid, channels)`.
        context: `(batch, *context_grid, channels)`; `None` for the inputs.
        padding: bools, `(batch, *context_grid)`.
        pairs: bools, `(batch, *grid, *context_grid)`.
        causal: whether a query sees only what does not come after it.

    Returns:
        `(batch, *grid, filters)`.
    """
    weights = {
        weight.path.split("/", 1)[-1]: ops.convert_to_numpy(weight)
        for weight in layer.weights
    }
    inputs = np.asarray(inputs, "float64")
    context = inputs if context is None else np.asarray(context, "float64")

    def normalized(name, tensor):
        tensor = project(tensor, weights[f"{name}/kernel"])
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

    def split(tensor, *depths):
        groups = layer.num_key_value_heads
        return tensor.reshape(*tensor.shape[:-1], groups, *depths)

    def sees(example, n, m):
        return (
            (padding is None or padding[(example, *m)])
            and (pairs is None or pairs[(example, *n, *m)])
            and (not causal or m <= n)
        )

    queries = split(normalized("query", inputs), -1, layer.key_dim)
    values = split(normalized("value", context), layer.intra_depth, -1)
    keys = np.zeros((*values.shape[:-1], layer.key_dim))
    if layer.use_content:
        keys = project(context, weights["key/kernel"]).reshape(keys.shape)
    table = np.zeros(keys.shape[-3:])
    if layer.use_position:
        table = ops.convert_to_numpy(layer.position_embeddings.table)
    return compute_outputs(layer, queries, keys, values, table, sees)


def randomize_weights(layer, seed=0):
    """Sets every weight to random numbers that keep the outputs near 1."""
    generator = np.random.default_rng(seed)
    for weight in layer.weights:
        values = generator.normal(size=weight.shape)
        if "variance" in weight.name:
            values = generator.uniform(0.5, 2.0, size=weight.shape)
        elif "kernel" in weight.name:
            values /= np.sqrt(weight.shape[0])
        elif "table" in weight.name:
            values /= np.sqrt(np.prod(weight.shape))
        weight.assign(values)
