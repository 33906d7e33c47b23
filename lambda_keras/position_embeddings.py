"""PositionEmbeddings: the relative embeddings of one layer or of many."""

import keras
import numpy as np

from lambda_keras.checks import check_choice


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


def resize_position_embeddings(table, scopes, method="extend"):
    """Makes a table of embeddings for another grid out of a learned one.

    Args:
        table: array, `(scope_1, ..., groups, intra_depth, key_dim)` of a
            lambda layer, or `(scope, depth)`, one axis of an attention layer.
            The scopes are odd; the middle of each axis is the offset 0.
        scopes: odd numbers of offsets that are wanted, one per axis:
            `2 * size - 1` for the `LambdaLayer` or `RelativeSelfAttention` of
            a grid.
        method: `"extend"` keeps each offset that exists in both, in pixels,
            and gives those beyond the learned ones the value of the nearest.
            `"interpolate"` stretches the table over the new scopes, so that an
            offset stands for the same part of the image; in between it is
            linear. Defaults to `"extend"`.

    Returns:
        NumPy array, the table's shape with these scopes.

    Raises:
        ValueError: If a scope is even, if the table has another number of
            axes, or if there is no such method.

    Example:

    >>> table = np.random.rand(27, 27, 1, 1, 16)  # learned at 14x14
    >>> print(lambda_keras.resize_position_embeddings(table, (31, 31)).shape)
    (31, 31, 1, 1, 16)
    """
    check_choice("method", method, ("extend", "interpolate"))
    table, scopes = np.asarray(table), tuple(scopes)
    learned = find_scopes(table.shape)
    if len(learned) != len(scopes) or not all(
        scope % 2 for scope in (*learned, *scopes)
    ):
        raise ValueError(
            "`scopes` must be as many odd numbers as the table has axes of "
            "offsets, because its middle is the offset 0. "
            f"Received: a table of shape {table.shape}, scopes={scopes}"
        )
    resize = _extend_axis if method == "extend" else _interpolate_axis
    for axis, scope in enumerate(scopes):
        table = np.moveaxis(resize(np.moveaxis(table, axis, 0), scope), 0, axis)
    return table


def find_scopes(table_shape):
    """Returns the numbers of offsets of a table, one per axis of the grid."""
    is_of_attention = len(table_shape) == 2
    return tuple(table_shape[: -1 if is_of_attention else -3])


def _extend_axis(table, scope):
    wanted = np.arange(scope) - scope // 2 + len(table) // 2
    return table[np.clip(wanted, 0, len(table) - 1)]


def _interpolate_axis(table, scope):
    wanted = np.linspace(0, len(table) - 1, scope)
    if scope == 1:
        wanted = np.array([len(table) // 2])
    below = np.floor(wanted).astype(int)
    above = np.minimum(below + 1, len(table) - 1)
    share = (wanted - below).reshape(-1, *[1] * (table.ndim - 1))
    mixed = table[below] * (1 - share) + table[above] * share
    return mixed.astype(table.dtype)
