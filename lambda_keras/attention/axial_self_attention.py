"""AxialSelfAttention: softmax attention along one axis after the other."""

import keras
from keras import ops

from lambda_keras.attention.relative_self_attention import RelativeSelfAttention
from lambda_keras.checks import check_image_shape
from lambda_keras.checks import check_positive_integers
from lambda_keras.quantization import KeepsQuantization


@keras.saving.register_keras_serializable(package="lambda_keras")
class AxialSelfAttention(KeepsQuantization, keras.layers.Layer):
    """Attends along the columns of an image, then along its rows.

    Two `RelativeSelfAttention` layers of one axis each, with projections of
    their own, so that after both every position has met all others. Time and
    memory grow with `height * width * (height + width)`.

    Bello, 2021, Table 4, gives neither the parameters nor the form of its
    axial attention. The accuracy there, 77.5 %, is the one that Wang et al.
    report for a network of other widths and 12.4M parameters. Order of the
    axes, 8 heads and keys half as deep as the values are theirs; their batch
    normalization of scores and outputs and their positional terms for keys
    and values are left out.

    Args:
        filters: int. Number of output channels.
        num_heads: int. Number of heads; divides `filters`. Defaults to `8`.
        key_dim: int. Size of the queries and keys of a head. Defaults to half
            of `filters // num_heads`, and at least `1`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Input shape:
        4D tensor of known size: `(batch_size, height, width, channels)`.

    Output shape:
        4D tensor: `(batch_size, height, width, filters)`.

    Raises:
        ValueError: If `filters` is not divisible by `num_heads`, or if height
            or width are unknown.

    Example:

    >>> x = np.random.rand(2, 14, 14, 64)
    >>> y = lambda_keras.attention.AxialSelfAttention(128)(x)
    >>> print(y.shape)
    (2, 14, 14, 128)

    Reference:
        - [Ho et al., 2019](https://arxiv.org/abs/1912.12180)
        - [Wang et al., 2020](https://arxiv.org/abs/2003.07853)
    """

    def __init__(self, filters, num_heads=8, key_dim=None, **kwargs):
        super().__init__(**kwargs)
        check_positive_integers(filters=filters, num_heads=num_heads)
        if key_dim is None:
            key_dim = max(filters // num_heads // 2, 1)
        self.filters = filters
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.height_attention, self.width_attention = (
            RelativeSelfAttention(
                filters, num_heads, key_dim, name=name, dtype=self.dtype_policy
            )
            for name in ("height_attention", "width_attention")
        )

    def build(self, inputs_shape):
        check_image_shape(inputs_shape)
        _, height, width, channels = inputs_shape
        self.height_attention.build((None, height, channels))
        self.width_attention.build((None, width, self.filters))

    def call(self, inputs):
        x = ops.transpose(inputs, (0, 2, 1, 3))  # (b, width, height, channels)
        x = _attend_rows(self.height_attention, x)
        x = ops.transpose(x, (0, 2, 1, 3))  # (b, height, width, filters)
        return _attend_rows(self.width_attention, x)

    def count_multiply_adds(self, inputs_shape):
        """Counts those of both attentions, as `RelativeSelfAttention` does.

        Args:
            inputs_shape: `(batch_size, height, width, channels)`.

        Returns:
            int.
        """
        _, height, width, channels = inputs_shape
        column = self.height_attention.count_multiply_adds(
            (None, height, channels)
        )
        row = self.width_attention.count_multiply_adds(
            (None, width, self.filters)
        )
        return width * column + height * row

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
        }


def _attend_rows(attention, images):
    """Attends in each row by itself: the rows travel in the batch."""
    _, height, width, channels = images.shape
    rows = attention(ops.reshape(images, (-1, width, channels)))
    return ops.reshape(rows, (-1, height, width, attention.filters))
