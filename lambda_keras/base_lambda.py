"""What LambdaLayer and LambdaConv share: projections, norms and content."""

import math

import keras
from keras import ops

from lambda_keras import functional
from lambda_keras.normalization import make_normalization
from lambda_keras.normalization import standardize_normalization


class BaseLambda(keras.layers.Layer):
    """Projects its inputs and applies content and position lambdas.

    A subclass says over which offsets the position lambdas reach
    (`position_scopes`) and how they are applied (`apply_positions`).
    `LambdaLayer` documents the arguments.
    """

    def __init__(
        self,
        filters,
        num_heads=4,
        key_dim=16,
        intra_depth=1,
        normalization="batch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive_integers(
            filters=filters,
            num_heads=num_heads,
            key_dim=key_dim,
            intra_depth=intra_depth,
        )
        if filters % num_heads:
            raise ValueError(
                "`filters` must be divisible by `num_heads`, because each head "
                "returns `filters / num_heads` of the output channels. "
                f"Received: filters={filters}, num_heads={num_heads}"
            )
        self.filters = filters
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.intra_depth = intra_depth
        self.normalization = standardize_normalization(normalization)
        self.value_dim = filters // num_heads

    def build(self, input_shape):
        _, *grid, channels = input_shape
        if not 1 <= len(grid) <= 3:
            raise ValueError(
                f"`{type(self).__name__}` takes sequences, images or volumes: "
                "3, 4 or 5 axes with the batch first and the channels last. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        if channels is None:
            raise ValueError(
                "The last axis of the inputs must have a known size, because "
                "the projections have a weight for each channel. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        # Bello, 2021, section 3: attention's scale of 1/sqrt(key_dim) stands
        # in the initializer of the queries, not in the forward pass.
        self.query = self._make_projection(
            "query",
            self.num_heads * self.key_dim,
            stddev=(self.key_dim * channels) ** -0.5,
        )
        self.key = self._make_projection(
            "key", self.intra_depth * self.key_dim, stddev=channels**-0.5
        )
        self.value = self._make_projection(
            "value", self.intra_depth * self.value_dim, stddev=channels**-0.5
        )
        self.query_normalization = self._make_normalization("query")
        self.value_normalization = self._make_normalization("value")
        for layer in (self.query, self.key, self.value):
            layer.build(input_shape)
        for projection, normalization in (
            (self.query, self.query_normalization),
            (self.value, self.value_normalization),
        ):
            normalization.build((*input_shape[:-1], projection.units))
        self.position_embeddings = self.add_weight(
            name="position_embeddings",
            shape=(
                *self.position_scopes(grid),
                self.intra_depth,
                self.key_dim,
            ),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
            # Lambdas are summed in float32 also under mixed precision.
            autocast=False,
        )

    def call(self, inputs, training=None):
        grid = ops.shape(inputs)[1:-1]
        queries = self.query_normalization(
            self.query(inputs), training=training
        )
        keys = self.key(inputs)
        values = self.value_normalization(self.value(inputs), training=training)

        queries = self._split(queries, grid, self.num_heads, self.key_dim)
        keys = self._split(keys, grid, self.intra_depth, self.key_dim)
        values = self._split(values, grid, self.intra_depth, self.value_dim)

        outputs = self.apply_content(queries, keys, values)
        outputs = outputs + self.apply_positions(queries, values)
        outputs = ops.reshape(outputs, (-1, *grid, self.filters))
        return ops.cast(outputs, self.compute_dtype)

    def position_scopes(self, grid):
        """Returns the number of offsets on each axis of the grid."""
        raise NotImplementedError

    def apply_positions(self, queries, values):
        """Applies the position lambdas to the queries."""
        raise NotImplementedError

    def apply_content(self, queries, keys, values):
        """Applies the content lambda, one an example, to the queries."""
        queries, keys, values = (
            flatten_grid(tensor) for tensor in (queries, keys, values)
        )
        content_lambda = functional.compute_content_lambda(
            functional.normalize_keys(keys), values
        )
        return functional.apply_content_lambda(queries, content_lambda)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        normalization = self.normalization
        if isinstance(normalization, keras.layers.Layer):
            normalization = keras.saving.serialize_keras_object(normalization)
        return {
            **super().get_config(),
            "filters": self.filters,
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "intra_depth": self.intra_depth,
            "normalization": normalization,
        }

    def _make_projection(self, name, units, stddev):
        return keras.layers.Dense(
            units,
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(stddev=stddev),
            dtype=self.dtype_policy,
            name=name,
        )

    def _make_normalization(self, projection):
        return make_normalization(
            self.normalization,
            name=f"{projection}_normalization",
            dtype=self.dtype_policy,
        )

    def _split(self, tensor, grid, groups, depth):
        tensor = ops.reshape(tensor, (-1, *grid, groups, depth))
        # Half precision holds neither a softmax over many positions nor a sum
        # over them.
        dtype = keras.backend.result_type(tensor.dtype, "float32")
        return ops.cast(tensor, dtype)


def flatten_grid(tensor):
    """Reshapes `(b, ..., groups, depth)` to `(b, positions, groups, depth)`."""
    *grid, groups, depth = tensor.shape[1:]
    if None in grid:
        return ops.reshape(tensor, (ops.shape(tensor)[0], -1, groups, depth))
    return ops.reshape(tensor, (-1, math.prod(grid), groups, depth))


def check_positive_integers(**sizes):
    """Raises a `ValueError` for the first size that is no positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(
                f"`{name}` must be a positive integer. "
                f"Received: {name}={size!r}"
            )
