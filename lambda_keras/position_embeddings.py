"""PositionEmbeddings: the relative embeddings of one layer or of many."""

import keras


@keras.saving.register_keras_serializable(package="lambda_keras")
class PositionEmbeddings(keras.layers.Layer):
    """Holds the relative embeddings that position lambdas are made of.

    Every lambda layer has one as its `position_embeddings`. Hand the same
    object to several layers to make them share it: it is stored once, also in
    a saved model. The first layer to be built decides the table's shape; the
    others must have the same scopes, key depth and intra-depth.

    Args:
        **kwargs: Base layer keyword arguments, such as `name` and `trainable`.

    Attributes:
        table: weight, `(scope_1, ..., groups, intra_depth, key_dim)`; the
            scopes are the numbers of offsets on each axis of the grid.

    Raises:
        ValueError: If a layer of another shape shares the embeddings.

    Example:

    >>> embeddings = lambda_keras.PositionEmbeddings()
    >>> first = lambda_keras.LambdaConv(
    ...     64, scope_size=7, position_embeddings=embeddings)
    >>> second = lambda_keras.LambdaConv(
    ...     128, scope_size=7, position_embeddings=embeddings)
    >>> x = second(first(np.random.rand(2, 14, 14, 64)))
    >>> print(embeddings.table.shape)
    (7, 7, 1, 1, 16)

    Reference:
        - [Bello, 2021](https://arxiv.org/abs/2102.08602), Table 4
    """

    def build(self, table_shape):
        self.table = self.add_weight(
            name="table",
            shape=table_shape,
            initializer=keras.initializers.RandomNormal(stddev=1.0),
            # Lambdas are summed in float32 also under mixed precision.
            autocast=False,
        )

    def call(self, inputs):
        return inputs

    def build_for(self, table_shape):
        """Builds the table, or checks that it has the shape that it needs."""
        table_shape = tuple(table_shape)
        if not self.built:
            self.build(table_shape)
        elif tuple(self.table.shape) != table_shape:
            raise ValueError(
                "Layers that share position embeddings must have the same "
                "scopes, groups, intra-depth and key depth, because they use "
                "the same table. "
                f"Received: a table of shape {tuple(self.table.shape)} for a "
                f"layer that needs {table_shape}"
            )
