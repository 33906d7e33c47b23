"""What the attention layers share: scores, softmax and projections.

Axis key, as in `lambda_keras.functional`:

    b  batch                    h  heads
    n  query positions          k  key depth of a head
    m  context positions        v  value depth of a head

Positions are flattened in row-major order.
"""

import math

import keras
from keras import ops

from lambda_keras.checks import check_divisible
from lambda_keras.checks import check_positive_integers
from lambda_keras.quantization import KeepsQuantization

# Below any score, and still finite: differences of infinities are not numbers.
_LOWEST = -1e30


def split_heads(tensor, num_heads):
    """Reshapes `(b, ..., h * depth)` to `(b, n, h, depth)`."""
    *grid, channels = tensor.shape[1:]
    depth = channels // num_heads
    if None in grid:
        batch_size = ops.shape(tensor)[0]
        return ops.reshape(tensor, (batch_size, -1, num_heads, depth))
    return ops.reshape(tensor, (-1, math.prod(grid), num_heads, depth))


def widen(tensor):
    """Casts to float32, which softmax and long sums need, if not to float64."""
    if keras.backend.standardize_dtype(tensor.dtype) == "float64":
        return tensor
    return ops.cast(tensor, "float32")


def compute_axis_scores(queries, table, offsets):
    """Scores the relative positions along one axis of the grid.

    Args:
        queries: `(b, n, h, k)`.
        table: one embedding per offset, `(offsets, k)`.
        offsets: NumPy ints `(n, size)`: for each query and each position on
            the axis, the row of the table.

    Returns:
        `(b, h, n, size)`.
    """
    embeddings = ops.take(table, offsets, axis=0)  # (n, size, k)
    return ops.einsum("bnhk,nsk->bhns", queries, embeddings)


def attend(queries, keys, values, axis_scores, visible=None):
    """Weighs the values by the softmax of content and position scores.

    Args:
        queries: `(b, n, h, k)`, scaled.
        keys: `(b, m, h, k)`.
        values: `(b, m, h, v)`.
        axis_scores: for each axis of the context's grid `(b, h, n, size)`; a
            position's score is the sum of those of its coordinates.
        visible: bools that broadcast to `(b, h, n, m)`. The other positions
            get no weight. `None` where none is hidden.

    Returns:
        `(b, n, h, v)`.
    """
    scores = widen(ops.einsum("bnhk,bmhk->bhnm", queries, keys))
    _, num_heads, count, context_count = scores.shape
    sizes = [scores_here.shape[-1] for scores_here in axis_scores]
    scores = ops.reshape(scores, (-1, *sizes))
    for axis, scores_here in enumerate(axis_scores):
        shape = [1] * len(sizes)
        shape[axis] = sizes[axis]
        scores = scores + widen(ops.reshape(scores_here, (-1, *shape)))
    scores = ops.reshape(scores, (-1, num_heads, count, context_count))
    if visible is not None:
        scores = ops.where(visible, scores, _LOWEST)
    weights = ops.cast(normalize_scores(scores, axis=-1), values.dtype)
    return ops.einsum("bhnm,bmhv->bnhv", weights, values)


def normalize_scores(scores, axis):
    """Returns the softmax over an axis of any size."""
    if scores.shape[axis] == 1:
        # `ops.softmax` warns of such an axis. All ones, with gradients.
        return ops.exp(scores - scores)
    return ops.softmax(scores, axis=axis)


class BaseAttention(KeepsQuantization, keras.layers.Layer):
    """Projects its inputs to the queries, keys and values of several heads.

    Without biases and without a projection of the outputs: in a bottleneck a
    1x1 convolution follows. A subclass makes its outputs of `query`, `key` and
    `value`, and says what that takes (`count_query`). `RelativeSelfAttention`
    documents the arguments.
    """

    def __init__(self, filters, num_heads=8, key_dim=None, **kwargs):
        super().__init__(**kwargs)
        check_positive_integers(filters=filters, num_heads=num_heads)
        check_divisible(
            "filters",
            filters,
            "num_heads",
            num_heads,
            "each head returns `filters / num_heads` of the output channels",
        )
        self.filters = filters
        self.num_heads = num_heads
        self.value_dim = filters // num_heads
        self.key_dim = self.value_dim if key_dim is None else key_dim
        check_positive_integers(key_dim=self.key_dim)

    def build(self, inputs_shape):
        if inputs_shape[-1] is None:
            raise ValueError(
                "The last axis must have a known size, because the "
                "projections have a weight for each channel. "
                f"Received: inputs of shape {tuple(inputs_shape)}"
            )
        self.query = self._build_projection("query", self.key_dim, inputs_shape)
        self.key = self._build_projection("key", self.key_dim, inputs_shape)
        self.value = self._build_projection(
            "value", self.value_dim, inputs_shape
        )

    def count_multiply_adds(self, inputs_shape):
        """Counts the multiply-adds per example, as the source defines them.

        Counted are those of the projections, of the scores of all pairs of
        positions that meet, and of the sums of the values, however they are
        computed; the softmax does not count.

        Args:
            inputs_shape: `(batch_size, *grid, channels)`.

        Returns:
            int.
        """
        _, *grid, channels = inputs_shape
        projections = channels * (2 * self.key_dim + self.value_dim)
        of_a_query = projections + self.count_query(grid)
        return math.prod(grid) * self.num_heads * of_a_query

    def count_query(self, grid):
        """Returns what a query of one head multiplies after its projection."""
        raise NotImplementedError

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
        }

    def project(self, inputs):
        """Returns queries, keys and values with the heads side by side."""
        # On PyTorch a projection in float64 returns float32.
        return tuple(
            ops.cast(projection(inputs), self.compute_dtype)
            for projection in (self.query, self.key, self.value)
        )

    def _build_projection(self, name, depth, inputs_shape):
        projection = keras.layers.Dense(
            self.num_heads * depth,
            use_bias=False,
            name=name,
            dtype=self.dtype_policy,
        )
        projection.build(inputs_shape)
        return projection
