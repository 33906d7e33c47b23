"""LocalSelfAttention: softmax attention within a window of each position."""

import math

import keras
import numpy as np
from keras import ops

from lambda_keras.attention.base import BaseAttention
from lambda_keras.attention.base import attend
from lambda_keras.attention.base import compute_axis_scores
from lambda_keras.attention.base import split_heads
from lambda_keras.checks import check_positive_integers


@keras.saving.register_keras_serializable(package="lambda_keras")
class LocalSelfAttention(BaseAttention):
    """Lets every position attend to a window around it.

    The score of a pair is `q (k + [r_height, r_width]) / sqrt(key_dim)`: the
    first half of the depth meets an embedding of the vertical offset, the
    second one of the horizontal. What lies outside the image is not attended
    to. Images are cut into blocks as wide as the window, which share a context
    that reaches half a window further, so that time and memory grow with the
    number of positions.

    In every block of a ResNet-50, this has the 18.0M parameters of Table 3 of
    Bello, 2021, though only if each head is projected from all channels: the
    source writes projections from a part of them, which would make fewer. It
    has no factor `1 / sqrt(key_dim)`, does not say whether the heads share
    their embeddings (here they do, which is invisible in the count) and pools
    strided blocks by 2x2 where `build_lambda_resnet` pools by 3x3.

    Args:
        filters: int. Number of output channels.
        window_size: int. Odd width of the window. Defaults to `7`.
        num_heads: int. Number of heads; divides `filters`. Defaults to `8`.
        key_dim: int. Even size of the queries and keys of a head. Defaults to
            `filters // num_heads`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Input shape:
        4D tensor of any height and width, known or not:
        `(batch_size, height, width, channels)`.

    Output shape:
        4D tensor: `(batch_size, height, width, filters)`.

    Raises:
        ValueError: If `filters` is not divisible by `num_heads`, if
            `window_size` is even or if `key_dim` is odd.

    Example:

    >>> x = np.random.rand(2, 14, 14, 64)
    >>> y = lambda_keras.attention.LocalSelfAttention(128)(x)
    >>> print(y.shape)
    (2, 14, 14, 128)

    Reference:
        - [Ramachandran et al., 2019](https://arxiv.org/abs/1906.05909)
        - [Vaswani et al., 2021](https://arxiv.org/abs/2103.12731), for the
          blocks
    """

    def __init__(
        self, filters, window_size=7, num_heads=8, key_dim=None, **kwargs
    ):
        super().__init__(filters, num_heads, key_dim, **kwargs)
        check_positive_integers(window_size=window_size)
        if window_size % 2 == 0:
            raise ValueError(
                "`window_size` must be odd, because the window is centered on "
                f"its position. Received: window_size={window_size}"
            )
        if self.key_dim % 2:
            raise ValueError(
                "`key_dim`, by default `filters / num_heads`, must be even, "
                "because each half meets the offsets along one axis. "
                f"Received: key_dim={self.key_dim}"
            )
        self.window_size = window_size

    def build(self, inputs_shape):
        if len(inputs_shape) != 4:
            raise ValueError(
                "Local self-attention takes images, (batch_size, height, "
                "width, channels). "
                f"Received: inputs of shape {tuple(inputs_shape)}"
            )
        super().build(inputs_shape)
        depth = self.key_dim // 2
        self.height_table, self.width_table = (
            self.add_weight(
                name=name,
                shape=(self.window_size, depth),
                initializer=keras.initializers.RandomNormal(stddev=depth**-0.5),
            )
            for name in ("height_table", "width_table")
        )

    def call(self, inputs):
        block, reach = self.window_size, self.window_size // 2
        _, height, width, _ = ops.shape(inputs)
        rows, columns = -(-height // block), -(-width // block)

        def cut(images, reach):
            return cut_blocks(images, rows, columns, block, reach)

        queries, keys, values = self.project(inputs)
        queries = cut(queries * self.key_dim**-0.5, 0)
        queries = split_heads(queries, self.num_heads)
        keys = split_heads(cut(keys, reach), self.num_heads)
        values = split_heads(cut(values, reach), self.num_heads)
        # Zero where a block's context leaves the image.
        inside = cut(ops.ones_like(inputs[..., :1]), reach)[:, None, None, :, 0]

        outputs = attend(
            queries,
            keys,
            values,
            self._compute_axis_scores(queries),
            visible=ops.logical_and(self._find_window(), inside > 0),
        )
        outputs = join_blocks(
            ops.reshape(outputs, (-1, block**2, self.filters)), rows, columns
        )
        return outputs[:, :height, :width]

    def count_query(self, grid):
        # What lies outside the image counts, like a convolution's padding.
        pairs = self.window_size**2 * (self.key_dim + self.value_dim)
        # Half of the depth meets the offsets along each of the two axes.
        return pairs + self.window_size * self.key_dim

    def get_config(self):
        return {**super().get_config(), "window_size": self.window_size}

    def _compute_axis_scores(self, queries):
        offsets = np.clip(self._find_offsets(), 0, self.window_size - 1)
        return [
            compute_axis_scores(half, table, offsets_here)
            for half, table, offsets_here in zip(
                ops.split(queries, 2, axis=-1),
                (self.height_table, self.width_table),
                offsets,
                strict=True,
            )
        ]

    def _find_offsets(self):
        """Returns the table's rows for a block, `(2, n, context width)`.

        Rows that the table does not have stand for positions out of window.
        """
        block = self.window_size
        coordinates = np.indices((block, block)).reshape(2, -1)  # (2, n)
        context = np.arange(block + 2 * (block // 2))
        return context - coordinates[..., None]

    def _find_window(self):
        """Marks what each query of a block sees: NumPy bools, `(n, m)`."""
        offsets = self._find_offsets()
        near_rows, near_columns = (offsets >= 0) & (offsets < self.window_size)
        window = near_rows[:, :, None] & near_columns[:, None]
        return window.reshape(len(window), -1)


def cut_blocks(images, rows, columns, block, reach):
    """Cuts images into blocks with a margin of what lies around them.

    Args:
        images: `(b, height, width, c)`.
        rows: number of blocks one above the other, enough for the height.
        columns: number of blocks side by side, enough for the width.
        block: height and width of a block.
        reach: width of the margin, at most `block`.

    Returns:
        `(b * rows * columns, (block + 2 * reach) ** 2, c)`. What is outside
        the image is zero.
    """
    channels = images.shape[-1]
    size = block + 2 * reach
    spare = (0, block - 1)
    images = ops.pad(images, ((0, 0), spare, spare, (0, 0)))
    images = images[:, : rows * block, : columns * block]
    strips = ops.reshape(images, (-1, rows, block, columns * block * channels))
    strips = _add_margin(strips, reach)
    blocks = ops.reshape(strips, (-1, columns, block, channels))
    blocks = _add_margin(blocks, reach)
    blocks = ops.reshape(blocks, (-1, size, columns, size * channels))
    blocks = ops.transpose(blocks, (0, 2, 1, 3))  # (b rows, columns, size, ..)
    return ops.reshape(blocks, (-1, size * size, channels))


def join_blocks(blocks, rows, columns):
    """Puts blocks without a margin side by side, as `cut_blocks` found them.

    Args:
        blocks: `(b * rows * columns, block ** 2, c)`.
        rows: number of blocks one above the other.
        columns: number of blocks side by side.

    Returns:
        `(b, rows * block, columns * block, c)`.
    """
    _, positions, channels = blocks.shape
    block = math.isqrt(positions)
    strips = ops.reshape(blocks, (-1, columns, block, block * channels))
    strips = ops.transpose(strips, (0, 2, 1, 3))  # (b rows, block, columns, ..)
    return ops.reshape(strips, (-1, rows * block, columns * block, channels))


def _add_margin(blocks, reach):
    """Adds to each block the ends of its neighbors on the second axis.

    Args:
        blocks: `(batch, count, block, depth)`.
        reach: what is added on either side, at most `block`.

    Returns:
        `(batch, count, block + 2 * reach, depth)`.
    """
    if reach == 0:
        # XNNPACK miscounts the batch where a tensor without numbers is joined.
        return blocks
    start = blocks.shape[2] - reach
    around = ops.pad(blocks, ((0, 0), (1, 1), (0, 0), (0, 0)))
    return ops.concatenate(
        [around[:, :-2, start:], blocks, around[:, 2:, :reach]], axis=2
    )
