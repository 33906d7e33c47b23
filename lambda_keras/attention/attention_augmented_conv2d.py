"""AttentionAugmentedConv2D: channels of a convolution beside attention's."""

import math

import keras
from keras import ops

from lambda_keras.attention.relative_self_attention import RelativeSelfAttention
from lambda_keras.checks import check_image_shape
from lambda_keras.checks import check_positive_integers
from lambda_keras.quantization import KeepsQuantization


@keras.saving.register_keras_serializable(package="lambda_keras")
class AttentionAugmentedConv2D(KeepsQuantization, keras.layers.Layer):
    """Concatenates the channels of a convolution with those of attention.

    The attention is a `RelativeSelfAttention` on the same inputs, followed by
    a projection. There are no biases. In c3, c4 and c5 of a ResNet-50, as in
    the source, the default sizes give the 25.8M parameters that Table 3 of
    Bello, 2021, prints.

    Args:
        filters: int. Number of output channels, of both kinds together.
        kernel_size: int. Width of the convolution. Defaults to `3`.
        num_heads: int. Number of heads. Defaults to `8`.
        key_dim: int. Size of the queries and keys of a head. Defaults to a
            fifth of `filters / num_heads`, and at least `20`.
        value_dim: int. Number of output channels of a head. Defaults to a
            tenth of `filters / num_heads`, rounded, and at least `1`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Input shape:
        4D tensor of known size: `(batch_size, height, width, channels)`.

    Output shape:
        4D tensor: `(batch_size, height, width, filters)`.

    Raises:
        ValueError: If the attention leaves no channel to the convolution, or
            if height or width are unknown.

    Example:

    >>> x = np.random.rand(2, 14, 14, 64)
    >>> y = lambda_keras.attention.AttentionAugmentedConv2D(128)(x)
    >>> print(y.shape)
    (2, 14, 14, 128)

    Reference:
        - [Bello et al., 2019](https://arxiv.org/abs/1904.09925)
    """

    def __init__(
        self,
        filters,
        kernel_size=3,
        num_heads=8,
        key_dim=None,
        value_dim=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive_integers(
            filters=filters, kernel_size=kernel_size, num_heads=num_heads
        )
        if key_dim is None:
            key_dim = max(round(0.2 * filters / num_heads), 20)
        if value_dim is None:
            value_dim = max(round(0.1 * filters / num_heads), 1)
        check_positive_integers(key_dim=key_dim, value_dim=value_dim)
        if num_heads * value_dim >= filters:
            raise ValueError(
                "`num_heads * value_dim` must be less than `filters`, because "
                "the convolution makes the other channels. Received: filters="
                f"{filters}, num_heads={num_heads}, value_dim={value_dim}"
            )
        self.filters = filters
        self.kernel_size = kernel_size
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = value_dim

    def build(self, inputs_shape):
        check_image_shape(inputs_shape)
        attention_filters = self.num_heads * self.value_dim
        self.convolution = keras.layers.Conv2D(
            self.filters - attention_filters,
            self.kernel_size,
            padding="same",
            use_bias=False,
            name="convolution",
            dtype=self.dtype_policy,
        )
        self.attention = RelativeSelfAttention(
            attention_filters,
            self.num_heads,
            self.key_dim,
            name="attention",
            dtype=self.dtype_policy,
        )
        self.projection = keras.layers.Dense(
            attention_filters,
            use_bias=False,
            name="projection",
            dtype=self.dtype_policy,
        )
        self.convolution.build(inputs_shape)
        self.attention.build(inputs_shape)
        self.projection.build((*inputs_shape[:-1], attention_filters))

    def call(self, inputs):
        attended = self.projection(self.attention(inputs))
        # In rows, because TensorFlow's convolution of no examples has as many
        # channels as its inputs, and drops a reshape that changes nothing else.
        rows = [
            ops.reshape(
                self.convolution(inputs), (-1, self.convolution.filters)
            ),
            ops.reshape(attended, (-1, attended.shape[-1])),
        ]
        outputs = ops.concatenate(rows, axis=-1)
        outputs = ops.reshape(outputs, (-1, *inputs.shape[1:-1], self.filters))
        # On PyTorch a projection in float64 returns float32.
        return ops.cast(outputs, self.compute_dtype)

    def count_multiply_adds(self, inputs_shape):
        """Counts those of the convolution, the attention and its projection.

        Args:
            inputs_shape: `(batch_size, height, width, channels)`.

        Returns:
            int. The padding that the convolution multiplies counts.
        """
        kernels = (self.convolution.kernel, self.projection.kernel)
        of_a_position = sum(math.prod(kernel.shape) for kernel in kernels)
        total = math.prod(inputs_shape[1:-1]) * of_a_position
        return total + self.attention.count_multiply_adds(inputs_shape)

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
        }
