"""PositionEmbeddings: the relative embeddings of one layer or of many."""

import threading
import weakref

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

    A copy of a model (`keras.models.clone_model`, `from_config`,
    `model_from_json`) has embeddings of its own, which its layers share as
    those of the model do. Keras copies layer by layer and says nowhere where a
    copy begins: what tells copies apart is that each begins with the layer
    that was built first. Where it does not, the copy is refused.

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

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # The layers that use the table, in the order in which they were built.
        # Only the keys count: Python has no weak set that keeps an order.
        self._sharers = weakref.WeakKeyDictionary()
        self._copied_layers = 0

    def build(self, table_shape):
        self.table = self.add_weight(
            name="table",
            shape=table_shape,
            initializer=keras.initializers.RandomNormal(stddev=1.0),
            # Lambdas are summed in float32 also under mixed precision.
            autocast=False,
        )

    def build_for(self, layer, table_shape):
        """Builds the table, or checks that it has the shape that it needs.

        Args:
            layer: layer that uses the table.
            table_shape: shape that it needs.

        Raises:
            ValueError: If the table was built in another shape.
        """
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
        self._sharers.setdefault(layer)

    def serialize_for(self, layer):
        """Returns the config by which a copy of a layer finds its embeddings.

        Args:
            layer: layer that uses the embeddings.

        Returns:
            Dictionary that `deserialize_embeddings` reads.
        """
        self._sharers.setdefault(layer)
        config = keras.saving.serialize_keras_object(self)
        # The first layer to be built decides the shape in a copy too.
        config.pop("build_config", None)
        return {
            **config,
            # By this Keras gives all layers of a file one object.
            "shared_object_id": id(self),
            "number": list(self._sharers).index(layer),
        }


class _LatestCopies(threading.local):
    """By the identity of the embeddings of which they are copies."""

    def __init__(self):
        self.by_identity = weakref.WeakValueDictionary()


_latest_copies = _LatestCopies()


def deserialize_embeddings(config):
    """Returns the embeddings of a layer that is copied or loaded.

    Args:
        config: what `PositionEmbeddings.serialize_for` returned.

    Returns:
        New `PositionEmbeddings`, or those of the layers before it in a copy.

    Raises:
        ValueError: If the layer shares embeddings and those with which it
            shares them were not copied right before it.
    """
    deserialize = keras.saving.deserialize_keras_object
    embeddings = deserialize(config)
    # Keras loads a file, and sees to what is shared in it by itself.
    if embeddings is deserialize(config):
        return embeddings
    identity, number = config["shared_object_id"], config.get("number")
    if number == 0:
        _latest_copies.by_identity[identity] = embeddings
    embeddings = _latest_copies.by_identity.get(identity)
    copied = 0 if embeddings is None else embeddings._copied_layers
    if number != copied:
        raise ValueError(
            "Layers that share position embeddings must be copied together, "
            "in the order in which they were built, because a copy of one "
            "alone would share no longer. Save and load the model instead. "
            f"Received: number={number} of the layers that share, counted "
            f"from 0, after {copied} that were copied"
        )
    embeddings._copied_layers += 1
    return embeddings


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
